// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/atomic"

	"github.com/livekit/protocol/logger"

	"github.com/livekit/livekit-server/pkg/routing"
)

// laneCounters counts the results of the records of one lane. Each accepted record is finally counted as acknowledged or
// rejected; every other one as droppedFull or unserialisable.
type laneCounters struct {
	acknowledged   atomic.Uint64
	rejected       atomic.Uint64 // answered INVALID_ARGUMENT: resending cannot help
	droppedFull    atomic.Uint64 // the buffer was full
	unserialisable atomic.Uint64 // it cannot be encoded as protobuf
	resends        atomic.Uint64 // groups sent again
	droppedBySpool atomic.Uint64 // acknowledged, but not kept by a sink of livekit-spool; counted for each sink
}

// registerSpoolMetrics exports the counters on LiveKit's own Prometheus port.
func registerSpoolMetrics(lanes *spoolLanes, node routing.LocalNode) {
	for _, lane := range []*spoolLane{lanes.events, lanes.stats, lanes.nodeRooms} {
		labels := func(outcome string) prometheus.Labels {
			labels := prometheus.Labels{
				"node_id": string(node.NodeID()), "node_type": node.NodeType().String(), "stream": lane.options.name,
			}
			if outcome != "" {
				labels["outcome"] = outcome
			}
			return labels
		}
		for outcome, counter := range map[string]*atomic.Uint64{
			"acknowledged":   &lane.counters.acknowledged,
			"rejected":       &lane.counters.rejected,
			"dropped_full":   &lane.counters.droppedFull,
			"unserialisable": &lane.counters.unserialisable,
		} {
			registerMetric(prometheus.NewCounterFunc(prometheus.CounterOpts{
				Namespace: "livekit", Subsystem: "analytics", Name: "records_total", ConstLabels: labels(outcome),
				Help: "Analytics records, by outcome.",
			}, func() float64 { return float64(counter.Load()) }))
		}
		registerMetric(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "livekit", Subsystem: "analytics", Name: "resends_total", ConstLabels: labels(""),
			Help: "Groups of analytics records sent to livekit-spool again.",
		}, func() float64 { return float64(lane.counters.resends.Load()) }))
		registerMetric(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "livekit", Subsystem: "analytics", Name: "spool_dropped_total", ConstLabels: labels(""),
			Help: "Acknowledged analytics records that a sink of livekit-spool did not keep, by its configuration.",
		}, func() float64 { return float64(lane.counters.droppedBySpool.Load()) }))
		registerMetric(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "livekit", Subsystem: "analytics", Name: "held_bytes", ConstLabels: labels(""),
			Help: "Bytes of analytics records in memory that livekit-spool has not acknowledged.",
		}, func() float64 { return float64(lane.heldBytes()) }))
	}
}

func registerMetric(metric prometheus.Collector) {
	var already prometheus.AlreadyRegisteredError
	if err := prometheus.Register(metric); err != nil && !errors.As(err, &already) {
		logger.Warnw("could not register an analytics metric", err)
	}
}
