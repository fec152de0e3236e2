// SPDX-License-Identifier: Apache-2.0

// This file takes the place of livekit-server's own pkg/telemetry/analyticsservice.go when the server is built by
// livekit-spool's integrations/livekit-server/build. The names below are those that the rest of livekit-server uses.
//
// Records go to the livekit-spool at LIVEKIT_ANALYTICS_URL; without that variable nothing is stamped, kept or sent, as in
// the stock server. Files: spool_settings.go (environment), spool_lane.go (what is held, grouped, resent, dropped),
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

// AnalyticsService takes what a node has to report. No method blocks.
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

// NullAnalyticService reports nothing; NullTelemetryService is built on it.
type NullAnalyticService struct{}

// SendStats does nothing.
func (NullAnalyticService) SendStats(context.Context, []*livekit.AnalyticsStat) {}

// SendEvent does nothing.
func (NullAnalyticService) SendEvent(context.Context, *livekit.AnalyticsEvent) {}

// SendNodeRoomStates does nothing.
func (NullAnalyticService) SendNodeRoomStates(context.Context, *livekit.AnalyticsNodeRooms) {}

// RoomProjectReporter has none.
func (NullAnalyticService) RoomProjectReporter(context.Context) roomobs.ProjectReporter { return nil }

// analyticsService stamps records and hands each kind to a lane of its own, so that none of them waits for another.
type analyticsService struct {
	nodeID         string
	sequenceNumber atomic.Uint64
	spool          *spoolLanes // nil: nothing is reported
}

// NewAnalyticsService is what livekit-server calls once, at its start. Settings that cannot be used turn analytics off,
// with an error in the log: calls matter more than their statistics.
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
		logger.Errorw("analytics are off: livekit-spool settings are not usable", err)
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

// RoomProjectReporter reports to nobody, as in the stock server.
func (a *analyticsService) RoomProjectReporter(context.Context) roomobs.ProjectReporter {
	return roomobs.NewNoopProjectReporter()
}

// spoolLanes has one lane per kind of record over one connection.
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
