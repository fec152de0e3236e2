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
	// What a record costs beside its bytes: its slice header and the allocator's rounding.
	recordOverhead = 48
	// A record that is lost is worth a line, a stream of them is not.
	lossLogInterval = time.Minute
	never           = time.Duration(math.MaxInt64)
)

// laneOptions bounds what a lane gathers, holds and sends.
type laneOptions struct {
	name         string        // of the stream, for logs and metrics
	wrapped      bool          // records go together, as field 1 of one message; else each is a message
	heldBytes    int           // taken and not yet acknowledged; what comes beyond is dropped
	groupBytes   int           // a group that has this much waits no longer
	groupRecords int           // likewise
	groupDelay   time.Duration // a record waits this long for company, and only while another group is under way
	inFlight     int           // groups under way at once, while all is well
	ackTimeout   time.Duration // from opening the stream to the acknowledgement
	backoffFirst time.Duration // before the first resend; doubled with each failure
	backoffMax   time.Duration
}

func defaultLaneOptions(name string) laneOptions {
	return laneOptions{
		name:         name,
		groupBytes:   512 << 10, // livekit-spool takes messages of up to 4 MiB
		groupRecords: 1000,
		groupDelay:   100 * time.Millisecond,
		inFlight:     4,
		ackTimeout:   30 * time.Second,
		backoffFirst: 100 * time.Millisecond,
		backoffMax:   2 * time.Second,
	}
}

// spoolLane holds the records of one stream from the moment LiveKit hands them over until livekit-spool acknowledges them.
//
// take serialises at once, as LiveKit goes on changing its messages, and never waits. run sends: at once while nothing is
// under way, else in groups, each on a stream of its own. A group that fails is resent as it was, with the ids that its
// records got in the first place, one at a time until livekit-spool is back, so that the oldest go first.
type spoolLane struct {
	options  laneOptions
	deliver  func(ctx context.Context, messages [][]byte) (dropped []string, err error)
	counters laneCounters
	wake     chan struct{}
	outcomes chan laneOutcome

	mu        sync.Mutex
	held      int          // bytes of all records in gathering, waiting and under way, with their overhead
	gathering *recordGroup // takes the next record; nil: none yet
	waiting   []*recordGroup
	lastGroup uint64
	full      bool // records are being dropped

	// Only run touches these.
	underWay       int
	failures       int // in a row; 0: livekit-spool is there, as far as is known
	retryAt        time.Time
	reported       bool       // the log says something of livekit-spool,
	reportedCode   codes.Code // namely this: a line per change
	rejectedLogged time.Time
	droppedLogged  time.Time
}

// recordGroup is what one stream carries.
type recordGroup struct {
	number  uint64 // in the order of taking
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

// take serialises a record and keeps it, or drops and counts it. It never waits for the network.
func (l *spoolLane) take(message proto.Message) {
	record, err := serialise(message)
	if err != nil {
		if l.counters.unserialisable.Inc() == 1 {
			logger.Warnw("analytics record dropped: it cannot be serialised", err, "stream", l.options.name)
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
			logger.Warnw("analytics buffer full: dropping records until livekit-spool takes some", nil,
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
	default: // run has yet to see the last one
	}
}

// serialise also survives a message that LiveKit changes at the same moment: a lost record is better than a lost room.
func serialise(message proto.Message) (record []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("serialising panicked: %v", cause)
		}
	}()
	return proto.Marshal(message)
}

// run sends until ctx ends; what is then unacknowledged is lost with the process.
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

// next is the group to send now, or how long to wait until there may be one, if nothing else happens.
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

// messages are what goes on the wire: field 1 of the wrapper message, repeated, is every record behind the same tag.
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

// settle decides what an answer means for its group.
func (l *spoolLane) settle(outcome laneOutcome) {
	group, err := outcome.group, outcome.err
	switch code := status.Code(err); code {
	case codes.OK:
		l.counters.acknowledged.Add(uint64(len(group.records)))
		l.release(group)
		l.failures = 0
		l.report(codes.OK, nil)
		l.reportDropped(outcome.dropped)
	case codes.InvalidArgument, codes.OutOfRange: // OUT_OF_RANGE: the message is larger than livekit-spool takes
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

// reject drops what livekit-spool will never take. A message is refused whole, so a group is halved until the one bad
// record is found: its neighbours are good.
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
		logger.Warnw("analytics record dropped: livekit-spool will not take it", err,
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

// release forgets a group's records.
func (l *spoolLane) release(group *recordGroup) {
	l.mu.Lock()
	l.held -= group.bytes
	// Half empty before it counts as over: at the brim each acknowledgement would be a line in the log.
	over := l.full && l.held <= l.options.heldBytes/2
	if over {
		l.full = false
	}
	l.mu.Unlock()
	if over {
		logger.Infow("analytics buffer has room again", "stream", l.options.name,
			"droppedSoFar", l.counters.droppedFull.Load())
	}
}

// putBack queues a group again, before all that are younger.
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

// backoff doubles with each failure; the jitter keeps the nodes of a cluster from coming back all at once.
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
		logger.Infow("livekit-spool takes analytics", "stream", l.options.name, "heldBytes", l.heldBytes(),
			"droppedSoFar", l.counters.droppedFull.Load())
		return
	}
	logger.Warnw("livekit-spool does not take analytics: holding them in memory, resending", err,
		"stream", l.options.name, "code", code.String(), "heldBytes", l.heldBytes())
}

// reportDropped counts what livekit-spool acknowledged and a sink of it did not keep. Sending it again would not help: it is
// the policy of its configuration (when_full: drop_newest, required: false).
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
		logger.Warnw("livekit-spool acknowledges analytics records that it does not keep", nil, "stream", l.options.name,
			"dropped", strings.Join(dropped, ", "), "droppedBySpoolSoFar", l.counters.droppedBySpool.Load())
	}
}

func (l *spoolLane) heldBytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}
