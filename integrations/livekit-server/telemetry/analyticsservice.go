// SPDX-License-Identifier: Apache-2.0

// This file replaces livekit-server's own pkg/telemetry/analyticsservice.go when livekit-spool's
// integrations/livekit-server/build builds the server. The rest of livekit-server uses the names below.
//
// Records go to the livekit-spool at LIVEKIT_ANALYTICS_URL; without that variable nothing is stamped, kept or sent, as in
// the stock server. Files: spool_settings.go (environment), spool_lane.go (buffers, groups, resends and drops records),
// spool_link.go (gRPC), spool_metrics.go (Prometheus).

package telemetry

import (
	"context"
	"os"

	"go.uber.org/atomic"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	"github.com/livekit/protocol/observability/roomobs"
	"github.com/livekit/protocol/rpc"
	"github.com/livekit/protocol/utils/guid"

	"github.com/livekit/livekit-server/pkg/config"
	"github.com/livekit/livekit-server/pkg/routing"
)

// AnalyticsService accepts what a node reports. No method blocks.
type AnalyticsService interface {
	SendStats(ctx context.Context, stats []*livekit.AnalyticsStat)
	SendEvent(ctx context.Context, event *livekit.AnalyticsEvent)
	SendNodeRoomStates(ctx context.Context, nodeRooms *livekit.AnalyticsNodeRooms)
	RoomProjectReporter(ctx context.Context) roomobs.ProjectReporter
}

var (
	_ AnalyticsService = NullAnalyticService{}
	_ AnalyticsService = (*analyticsService)(nil)
)

// NullAnalyticService reports nothing; NullTelemetryService uses it.
type NullAnalyticService struct{}

// SendStats does nothing.
func (NullAnalyticService) SendStats(context.Context, []*livekit.AnalyticsStat) {}

// SendEvent does nothing.
func (NullAnalyticService) SendEvent(context.Context, *livekit.AnalyticsEvent) {}

// SendNodeRoomStates does nothing.
func (NullAnalyticService) SendNodeRoomStates(context.Context, *livekit.AnalyticsNodeRooms) {}

// RoomProjectReporter returns nil: there is no reporter.
func (NullAnalyticService) RoomProjectReporter(context.Context) roomobs.ProjectReporter { return nil }

// analyticsService stamps records and passes each stream to a lane of its own, so that no stream waits for another.
type analyticsService struct {
	nodeID         string
	sequenceNumber atomic.Uint64
	spool          *spoolLanes // nil: nothing is reported
}

// NewAnalyticsService is called once, when livekit-server starts. Settings that cannot be used turn analytics off and log an
// error: calls matter more than their statistics.
func NewAnalyticsService(conf *config.Config, currentNode routing.LocalNode) AnalyticsService {
	service := &analyticsService{nodeID: string(currentNode.NodeID())}

	var keys map[string]string
	if conf != nil {
		keys = conf.Keys
	}
	settings, err := readSpoolSettings(os.Getenv, keys)
	if err == nil && settings != nil {
		service.spool, err = openSpoolLanes(settings)
	}
	if err != nil {
		logger.Errorw("analytics are off: the livekit-spool settings cannot be used", err)
		return service
	}
	if service.spool != nil {
		registerSpoolMetrics(service.spool, currentNode)
		logger.Infow("analytics go to livekit-spool", "address", settings.target, "tls", settings.tls != nil,
			"apiKey", settings.apiKey, "bufferBytes", settings.bufferBytes)
	}
	return service
}

func (a *analyticsService) SendStats(_ context.Context, stats []*livekit.AnalyticsStat) {
	if a.spool == nil {
		return
	}
	for _, stat := range stats {
		stat.Id = guid.New("AS_")
		stat.Node = a.nodeID
		a.spool.stats.take(stat)
	}
}

func (a *analyticsService) SendEvent(_ context.Context, event *livekit.AnalyticsEvent) {
	if a.spool == nil {
		return
	}
	event.Id = guid.New("AE_")
	event.NodeId = a.nodeID
	a.spool.events.take(event)
}

func (a *analyticsService) SendNodeRoomStates(_ context.Context, nodeRooms *livekit.AnalyticsNodeRooms) {
	if a.spool == nil {
		return
	}
	nodeRooms.NodeId = a.nodeID
	nodeRooms.SequenceNumber = a.sequenceNumber.Inc()
	nodeRooms.Timestamp = timestamppb.Now()
	a.spool.nodeRooms.take(nodeRooms)
}

// RoomProjectReporter returns a reporter that reports nothing, as in the stock server.
func (a *analyticsService) RoomProjectReporter(context.Context) roomobs.ProjectReporter {
	return roomobs.NewNoopProjectReporter()
}

// spoolLanes has one lane per stream, over one connection.
type spoolLanes struct {
	events    *spoolLane
	stats     *spoolLane
	nodeRooms *spoolLane
	stop      func()
}

func openSpoolLanes(settings *spoolSettings) (*spoolLanes, error) {
	link, err := newSpoolLink(settings)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	lane := func(name, method string, wrapped bool, share int) *spoolLane {
		options := defaultLaneOptions(name)
		options.heldBytes = settings.bufferBytes / 16 * share
		options.wrapped = wrapped
		lane := newSpoolLane(options, func(ctx context.Context, messages [][]byte) ([]string, error) {
			return link.deliver(ctx, method, messages)
		})
		go lane.run(ctx)
		return lane
	}
	return &spoolLanes{
		events:    lane("events", rpc.AnalyticsRecorderService_IngestEvents_FullMethodName, true, 8),
		stats:     lane("stats", rpc.AnalyticsRecorderService_IngestStats_FullMethodName, true, 6),
		nodeRooms: lane("node_rooms", rpc.AnalyticsRecorderService_IngestNodeRoomStates_FullMethodName, false, 2),
		stop: func() {
			cancel()
			link.close()
		},
	}, nil
}
