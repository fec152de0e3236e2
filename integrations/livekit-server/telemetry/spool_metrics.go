// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/atomic"

	"github.com/livekit/protocol/logger"

	"github.com/livekit/livekit-server/pkg/routing"
)

// laneCounters says what became of the records of one lane. Each record that was taken ends in exactly one of acknowledged,
// rejected; each that was not, in droppedFull or unserialisable.
type laneCounters struct {
	acknowledged   atomic.Uint64
	rejected       atomic.Uint64 // answered INVALID_ARGUMENT: resending would never help
	droppedFull    atomic.Uint64 // the buffer was full
	unserialisable atomic.Uint64 // no protobuf could be made of it
	resends        atomic.Uint64 // groups sent again
	droppedBySpool atomic.Uint64 // acknowledged, and not kept by a sink of livekit-spool; counted for each sink
}

// registerSpoolMetrics shows the counters on LiveKit's own Prometheus port.
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
				Help: "Analytics records by what became of them.",
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
		logger.Warnw("an analytics metric is not shown", err)
	}
}
