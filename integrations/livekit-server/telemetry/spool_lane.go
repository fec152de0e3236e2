// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/livekit/protocol/logger"
)

const (
	// The memory of a record besides its bytes: its slice header and the allocator's rounding.
	recordOverhead = 48
	// Minimum interval between log lines about lost records.
	lossLogInterval = time.Minute
	never           = time.Duration(math.MaxInt64)
)

// laneOptions sets the limits of a lane.
type laneOptions struct {
	name         string        // of the stream, for logs and metrics
	wrapped      bool          // records are sent together, as field 1 of one message; otherwise each is a message
	heldBytes    int           // accepted and not yet acknowledged; further records are dropped
	groupBytes   int           // a group of this size is sent without waiting
	groupRecords int           // likewise
	groupDelay   time.Duration // a record waits at most this long, and only while another group is in flight
	inFlight     int           // groups in flight at once, while livekit-spool acknowledges
	ackTimeout   time.Duration // from opening the stream to the acknowledgement
	backoffFirst time.Duration // before the first resend; doubled with each failure
	backoffMax   time.Duration
}

func defaultLaneOptions(name string) laneOptions {
	return laneOptions{
		name:         name,
		groupBytes:   512 << 10, // livekit-spool accepts messages of up to 4 MiB
		groupRecords: 1000,
		groupDelay:   100 * time.Millisecond,
		inFlight:     4,
		ackTimeout:   30 * time.Second,
		backoffFirst: 100 * time.Millisecond,
		backoffMax:   2 * time.Second,
	}
}

// spoolLane buffers the records of one stream until livekit-spool acknowledges them.
//
// take serialises at once, because LiveKit changes its messages afterwards, and never waits. run sends: at once if nothing
// is in flight, else in groups, each on a stream of its own. A group that fails is resent unchanged, with the original ids.
// Until livekit-spool is available again, one group is sent at a time, the oldest first.
type spoolLane struct {
	options  laneOptions
	deliver  func(ctx context.Context, messages [][]byte) (dropped []string, err error)
	counters laneCounters
	wake     chan struct{}
	outcomes chan laneOutcome

	mu        sync.Mutex
	held      int          // bytes of all records in gathering, waiting and in flight, with their overhead
	gathering *recordGroup // takes the next record; nil: none yet
	waiting   []*recordGroup
	lastGroup uint64
	full      bool // records are being dropped

	// Only run touches these.
	underWay       int
	failures       int // in a row; 0: livekit-spool is available, as far as is known
	retryAt        time.Time
	reported       bool       // a state of livekit-spool was logged,
	reportedCode   codes.Code // namely this one; each change is logged once
	rejectedLogged time.Time
	droppedLogged  time.Time
}

// recordGroup has the records of one stream.
type recordGroup struct {
	number  uint64 // in the order of acceptance
	since   time.Time
	records [][]byte
	bytes   int // with overhead
	sent    bool
}

type laneOutcome struct {
	group   *recordGroup
	dropped []string // `SINK=N`, of an acknowledged group
	err     error
}

func newSpoolLane(options laneOptions, deliver func(ctx context.Context, messages [][]byte) ([]string, error)) *spoolLane {
	return &spoolLane{
		options:  options,
		deliver:  deliver,
		wake:     make(chan struct{}, 1),
		outcomes: make(chan laneOutcome, options.inFlight),
	}
}

// take serialises a record and buffers it, or drops and counts it. It never waits for the network.
func (l *spoolLane) take(message proto.Message) {
	record, err := serialise(message)
	if err != nil {
		if l.counters.unserialisable.Inc() == 1 {
			logger.Warnw("dropping an analytics record: it cannot be serialised", err, "stream", l.options.name)
		}
		return
	}
	cost := len(record) + recordOverhead

	l.mu.Lock()
	if l.held+cost > l.options.heldBytes {
		first := !l.full
		l.full = true
		l.mu.Unlock()
		l.counters.droppedFull.Inc()
		if first {
			logger.Warnw("analytics buffer full: dropping records until livekit-spool accepts some", nil,
				"stream", l.options.name, "bufferBytes", l.options.heldBytes)
		}
		return
	}
	l.held += cost
	if l.gathering == nil {
		l.lastGroup++
		l.gathering = &recordGroup{number: l.lastGroup, since: time.Now()}
	}
	l.gathering.records = append(l.gathering.records, record)
	l.gathering.bytes += cost
	if l.gathering.bytes >= l.options.groupBytes || len(l.gathering.records) >= l.options.groupRecords {
		l.waiting = append(l.waiting, l.gathering)
		l.gathering = nil
	}
	l.mu.Unlock()

	select {
	case l.wake <- struct{}{}:
	default: // run has not handled the last one yet
	}
}

// serialise recovers from a panic when LiveKit changes the message at the same time: losing a record is better than losing a
// room.
func serialise(message proto.Message) (record []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("serialising panicked: %v", cause)
		}
	}()
	return proto.Marshal(message)
}

// run sends until ctx ends; records that are not acknowledged by then are lost.
func (l *spoolLane) run(ctx context.Context) {
	timer := time.NewTimer(never)
	defer timer.Stop()
	for {
		group, wait := l.next(time.Now())
		if group != nil {
			l.send(ctx, group)
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		case outcome := <-l.outcomes:
			l.underWay--
			l.settle(outcome)
		}
	}
}

// next returns the group to send now, or how long to wait for one if nothing else happens.
func (l *spoolLane) next(now time.Time) (*recordGroup, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.failures > 0 && l.underWay > 0, l.underWay >= l.options.inFlight:
		return nil, never
	case l.failures > 0 && now.Before(l.retryAt):
		return nil, l.retryAt.Sub(now)
	case len(l.waiting) > 0:
		group := l.waiting[0]
		l.waiting = slices.Delete(l.waiting, 0, 1)
		return group, 0
	case l.gathering == nil:
		return nil, never
	}
	if age := now.Sub(l.gathering.since); l.underWay > 0 && age < l.options.groupDelay {
		return nil, l.options.groupDelay - age
	}
	group := l.gathering
	l.gathering = nil
	return group, 0
}

func (l *spoolLane) send(ctx context.Context, group *recordGroup) {
	if group.sent {
		l.counters.resends.Inc()
	}
	group.sent = true
	l.underWay++
	go func() {
		ctx, cancel := context.WithTimeout(ctx, l.options.ackTimeout)
		defer cancel()
		dropped, err := l.deliver(ctx, l.messages(group))
		l.outcomes <- laneOutcome{group, dropped, err}
	}()
}

// messages returns the encoded messages: field 1 of the wrapper message is repeated, so each record follows the same tag.
func (l *spoolLane) messages(group *recordGroup) [][]byte {
	if !l.options.wrapped {
		return group.records
	}
	message := make([]byte, 0, group.bytes)
	for _, record := range group.records {
		message = protowire.AppendTag(message, 1, protowire.BytesType)
		message = protowire.AppendBytes(message, record)
	}
	return [][]byte{message}
}

// settle handles the answer for a group.
func (l *spoolLane) settle(outcome laneOutcome) {
	group, err := outcome.group, outcome.err
	switch code := status.Code(err); code {
	case codes.OK:
		l.counters.acknowledged.Add(uint64(len(group.records)))
		l.release(group)
		l.failures = 0
		l.report(codes.OK, nil)
		l.reportDropped(outcome.dropped)
	case codes.InvalidArgument, codes.OutOfRange: // OUT_OF_RANGE: the message is larger than livekit-spool accepts
		l.failures = 0
		l.report(codes.OK, nil)
		l.reject(group, err)
	default:
		if l.failures == 0 || l.underWay == 0 {
			l.failures++
			l.retryAt = time.Now().Add(l.backoff())
		}
		l.putBack(group)
		l.report(code, err)
	}
}

// reject drops a record that livekit-spool never accepts. A message is refused as a whole, so a group is halved until the
// bad record is found; the others are kept.
func (l *spoolLane) reject(group *recordGroup, err error) {
	if half := len(group.records) / 2; half > 0 {
		l.putBack(group.part(half, len(group.records)))
		l.putBack(group.part(0, half))
		return
	}
	l.release(group)
	rejected := l.counters.rejected.Inc()
	if now := time.Now(); now.Sub(l.rejectedLogged) >= lossLogInterval {
		l.rejectedLogged = now
		logger.Warnw("dropping an analytics record: livekit-spool rejects it", err,
			"stream", l.options.name, "rejectedSoFar", rejected)
	}
}

func (g *recordGroup) part(from, to int) *recordGroup {
	part := &recordGroup{number: g.number, since: g.since, records: g.records[from:to:to], sent: g.sent}
	for _, record := range part.records {
		part.bytes += len(record) + recordOverhead
	}
	return part
}

// release removes a group's records from the buffer.
func (l *spoolLane) release(group *recordGroup) {
	l.mu.Lock()
	l.held -= group.bytes
	// Over only when half of the buffer is free: otherwise each acknowledgement could cause a log line.
	over := l.full && l.held <= l.options.heldBytes/2
	if over {
		l.full = false
	}
	l.mu.Unlock()
	if over {
		logger.Infow("analytics buffer has space again", "stream", l.options.name,
			"droppedSoFar", l.counters.droppedFull.Load())
	}
}

// putBack queues a group again, before all younger ones.
func (l *spoolLane) putBack(group *recordGroup) {
	l.mu.Lock()
	defer l.mu.Unlock()
	place, _ := slices.BinarySearchFunc(l.waiting, group.number, func(other *recordGroup, number uint64) int {
		if other.number < number {
			return -1
		}
		return 1
	})
	l.waiting = slices.Insert(l.waiting, place, group)
}

// backoff doubles with each failure; the jitter prevents all nodes of a cluster from resending at the same time.
func (l *spoolLane) backoff() time.Duration {
	delay := l.options.backoffMax
	if doublings := l.failures - 1; doublings < 16 {
		delay = min(delay, l.options.backoffFirst<<doublings)
	}
	return time.Duration(float64(delay) * (0.75 + rand.Float64()/2))
}

func (l *spoolLane) report(code codes.Code, err error) {
	if l.reported && l.reportedCode == code {
		return
	}
	l.reported, l.reportedCode = true, code
	if code == codes.OK {
		logger.Infow("livekit-spool accepts analytics", "stream", l.options.name, "heldBytes", l.heldBytes(),
			"droppedSoFar", l.counters.droppedFull.Load())
		return
	}
	logger.Warnw("livekit-spool does not accept analytics: keeping them in memory and resending", err,
		"stream", l.options.name, "code", code.String(), "heldBytes", l.heldBytes())
}

// reportDropped counts records that livekit-spool acknowledged and one of its sinks did not keep. Resending would not help:
// livekit-spool is configured so (when_full: drop_newest, required: false).
func (l *spoolLane) reportDropped(dropped []string) {
	if len(dropped) == 0 {
		return
	}
	for _, records := range dropped {
		if _, count, found := strings.Cut(records, "="); found {
			number, _ := strconv.ParseUint(count, 10, 64)
			l.counters.droppedBySpool.Add(number)
		}
	}
	if now := time.Now(); now.Sub(l.droppedLogged) >= lossLogInterval {
		l.droppedLogged = now
		logger.Warnw("livekit-spool acknowledged analytics records that it did not keep", nil, "stream", l.options.name,
			"dropped", strings.Join(dropped, ", "), "droppedBySpoolSoFar", l.counters.droppedBySpool.Load())
	}
}

func (l *spoolLane) heldBytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}
