// SPDX-License-Identifier: Apache-2.0

//go:build go1.25

package telemetry

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
)

// These tests run in synctest's bubble: its clock moves only when every goroutine waits, so each duration is exact.

// fakeSpool is a fake livekit-spool: it answers each delivery as `answer` says, after `delay`.
type fakeSpool struct {
	mu         sync.Mutex
	delay      time.Duration
	answer     func(ids []string) error
	dropped    []string // what it reports as dropped in its acknowledgements
	deliveries []delivery
}

type delivery struct {
	at  time.Duration // since the test began
	ids []string
}

func (f *fakeSpool) set(delay time.Duration, answer func(ids []string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay, f.answer = delay, answer
}

func (f *fakeSpool) seen() []delivery {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]delivery(nil), f.deliveries...)
}

// startLane runs a lane against a fakeSpool until the test's end.
func startLane(t *testing.T, change func(*laneOptions)) (*spoolLane, *fakeSpool) {
	options := defaultLaneOptions("events")
	options.wrapped = true
	options.heldBytes = 1 << 20
	if change != nil {
		change(&options)
	}
	spool := &fakeSpool{}
	began := time.Now()
	lane := newSpoolLane(options, func(ctx context.Context, messages [][]byte) ([]string, error) {
		ids := eventIDs(t, messages)
		spool.mu.Lock()
		spool.deliveries = append(spool.deliveries, delivery{time.Since(began), ids})
		delay, answer, dropped := spool.delay, spool.answer, spool.dropped
		spool.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-time.After(delay):
		}
		if answer == nil {
			return dropped, nil
		}
		return nil, answer(ids)
	})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go lane.run(ctx)
	synctest.Wait()
	return lane, spool
}

func eventIDs(t *testing.T, messages [][]byte) []string {
	var ids []string
	for _, message := range messages {
		var events livekit.AnalyticsEvents
		require.NoError(t, proto.Unmarshal(message, &events))
		for _, event := range events.Events {
			ids = append(ids, event.Id)
		}
	}
	return ids
}

func takeEvents(lane *spoolLane, ids ...string) {
	for _, id := range ids {
		lane.take(&livekit.AnalyticsEvent{Id: id})
	}
}

func refuse(code codes.Code) func([]string) error {
	return func([]string) error { return status.Error(code, "refused by the test") }
}

func TestLaneSendsAtOnceWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, nil)
		takeEvents(lane, "a")
		synctest.Wait()
		require.Equal(t, []delivery{{0, []string{"a"}}}, spool.seen())
		require.EqualValues(t, 1, lane.counters.acknowledged.Load())
		require.Zero(t, lane.heldBytes())
	})
}

func TestLaneGathersWhileAGroupIsUnderWayAndSendsWithItsAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, nil)
		spool.set(10*time.Millisecond, nil)
		takeEvents(lane, "a")
		synctest.Wait()
		takeEvents(lane, "b", "c")
		time.Sleep(time.Second)
		require.Equal(t, []delivery{{0, []string{"a"}}, {10 * time.Millisecond, []string{"b", "c"}}}, spool.seen())
	})
}

func TestLaneGathersForNoLongerThan100Milliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, nil)
		spool.set(time.Second, nil)
		takeEvents(lane, "a")
		synctest.Wait()
		takeEvents(lane, "b")
		time.Sleep(50 * time.Millisecond)
		takeEvents(lane, "c")
		time.Sleep(3 * time.Second)
		require.Equal(t, []delivery{{0, []string{"a"}}, {100 * time.Millisecond, []string{"b", "c"}}}, spool.seen())
		require.EqualValues(t, 3, lane.counters.acknowledged.Load())
	})
}

func TestLaneSendsAFullGroupAtOnceAndNeverMoreGroupsThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, func(o *laneOptions) { o.groupRecords, o.inFlight = 2, 3 })
		spool.set(time.Second, nil)
		takeEvents(lane, "a")
		synctest.Wait()
		takeEvents(lane, "b", "c", "d", "e", "f", "g", "h")
		time.Sleep(3 * time.Second)
		require.ElementsMatch(t, []delivery{
			{0, []string{"a"}}, {0, []string{"b", "c"}}, {0, []string{"d", "e"}}, // three are in flight
			{time.Second, []string{"f", "g"}}, {time.Second, []string{"h"}},
		}, spool.seen())
	})
}

func TestLaneResendsTheSameRecordsOldestFirstOneGroupAtATimeUntilTheSpoolIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, func(o *laneOptions) { o.groupRecords = 2 })
		spool.set(0, refuse(codes.Unavailable))
		takeEvents(lane, "a", "b", "c", "d", "e")
		time.Sleep(20 * time.Second)
		failed := spool.seen()
		require.Greater(t, len(failed), 8, "backs off to two seconds at most")
		require.Less(t, len(failed), 25, "backs off")
		// Several can be in flight when the first of them fails; from then on only the oldest is sent.
		for _, again := range failed[len(failed)-5:] {
			require.Equal(t, "a", again.ids[0])
		}
		require.Zero(t, lane.counters.acknowledged.Load())

		spool.set(0, nil)
		time.Sleep(3 * time.Second)
		var taken []string
		for _, delivered := range spool.seen()[len(failed):] {
			taken = append(taken, delivered.ids...)
		}
		require.ElementsMatch(t, []string{"a", "b", "c", "d", "e"}, taken)
		require.Equal(t, "a", taken[0], "the oldest first")
		require.EqualValues(t, 5, lane.counters.acknowledged.Load())
		require.Zero(t, lane.heldBytes())
	})
}

func TestLaneResendsWhatIsNotAcknowledgedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, nil)
		spool.set(time.Hour, nil) // a spool that hangs
		takeEvents(lane, "a")
		time.Sleep(lane.options.ackTimeout - time.Second)
		require.Len(t, spool.seen(), 1)
		spool.set(0, nil)
		time.Sleep(3 * time.Second)
		require.Len(t, spool.seen(), 2)
		require.EqualValues(t, 1, lane.counters.acknowledged.Load())
		require.EqualValues(t, 1, lane.counters.resends.Load())
	})
}

func TestLaneRetriesWhateverMayStillBeMended(t *testing.T) {
	for _, code := range []codes.Code{
		codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted, codes.Unimplemented, codes.Internal,
		codes.Unknown, codes.Aborted, codes.Canceled,
	} {
		synctest.Test(t, func(t *testing.T) {
			lane, spool := startLane(t, nil)
			spool.set(0, refuse(code))
			takeEvents(lane, "a")
			time.Sleep(10 * time.Second)
			spool.set(0, nil)
			time.Sleep(3 * time.Second)
			require.EqualValues(t, 1, lane.counters.acknowledged.Load(), code)
			require.Zero(t, lane.counters.rejected.Load(), code)
		})
	}
}

func TestLaneDropsTheRecordThatIsRefusedForGoodAndKeepsItsNeighbours(t *testing.T) {
	for _, code := range []codes.Code{codes.InvalidArgument, codes.OutOfRange} {
		synctest.Test(t, func(t *testing.T) {
			lane, spool := startLane(t, nil)
			taken := map[string]int{}
			spool.set(time.Millisecond, func(ids []string) error {
				for _, id := range ids {
					if strings.HasPrefix(id, "bad") {
						return status.Error(code, "not an event")
					}
				}
				spool.mu.Lock()
				defer spool.mu.Unlock()
				for _, id := range ids {
					taken[id]++
				}
				return nil
			})
			takeEvents(lane, "first")
			synctest.Wait()
			want := map[string]int{"first": 1}
			for n := range 100 {
				id := fmt.Sprint("good", n)
				if n == 17 || n == 18 || n == 99 {
					id = fmt.Sprint("bad", n)
				} else {
					want[id] = 1
				}
				takeEvents(lane, id)
			}
			time.Sleep(time.Second)
			spool.mu.Lock()
			require.Equal(t, want, taken)
			spool.mu.Unlock()
			require.EqualValues(t, 3, lane.counters.rejected.Load())
			require.EqualValues(t, 98, lane.counters.acknowledged.Load())
			require.Zero(t, lane.heldBytes())

			deliveries := len(spool.seen())
			time.Sleep(time.Hour)
			require.Len(t, spool.seen(), deliveries, "nothing is resent forever")
		})
	}
}

func TestLaneCountsWhatIsAcknowledgedAndDroppedAndDoesNotSendItAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, nil)
		spool.dropped = []string{"mongo=1", "files=1", "unheard of"}
		takeEvents(lane, "a")
		time.Sleep(time.Hour)
		require.Len(t, spool.seen(), 1)
		require.EqualValues(t, 1, lane.counters.acknowledged.Load())
		require.EqualValues(t, 2, lane.counters.droppedBySpool.Load())
		require.Zero(t, lane.heldBytes())
	})
}

func TestLaneNeverWaitsAndCountsWhatItsFullBufferDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const fits = 100
		lane, spool := startLane(t, func(o *laneOptions) {
			o.heldBytes = fits * (proto.Size(&livekit.AnalyticsEvent{Id: "AE_0000"}) + recordOverhead)
			o.groupRecords = 7
		})
		spool.set(time.Hour, nil) // a spool that hangs
		began := time.Now()
		for n := range 3 * fits {
			takeEvents(lane, fmt.Sprintf("AE_%04d", n))
		}
		require.Zero(t, time.Since(began), "take does not wait")
		require.EqualValues(t, 2*fits, lane.counters.droppedFull.Load())
		require.LessOrEqual(t, lane.heldBytes(), lane.options.heldBytes)

		spool.set(0, nil)
		time.Sleep(2 * lane.options.ackTimeout)
		require.EqualValues(t, fits, lane.counters.acknowledged.Load())
		require.Zero(t, lane.heldBytes())
		takeEvents(lane, "after")
		synctest.Wait()
		require.EqualValues(t, fits+1, lane.counters.acknowledged.Load())
	})
}

func TestLaneDropsAndCountsWhatProtobufCannotSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, nil)
		takeEvents(lane, "not UTF-8: \xff", "b")
		synctest.Wait()
		require.Equal(t, []delivery{{0, []string{"b"}}}, spool.seen())
		require.EqualValues(t, 1, lane.counters.unserialisable.Load())
	})
}

func TestLaneLogsOneLinePerChangeOfState(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	before := logger.GetLogger()
	logger.SetLogger(logger.LogRLogger(funcr.New(func(_, line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}, funcr.Options{})), "test")
	defer logger.SetLogger(before, "livekit")
	expect := func(t *testing.T, wanted ...string) {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, lines, len(wanted), "%q", lines)
		for i, want := range wanted {
			require.Contains(t, lines[i], want)
		}
		lines = nil
	}

	synctest.Test(t, func(t *testing.T) {
		lane, spool := startLane(t, func(o *laneOptions) { o.heldBytes = 1000 })
		for range 10 {
			takeEvents(lane, "a")
			synctest.Wait()
		}
		expect(t, "accepts analytics")

		spool.set(0, refuse(codes.Unavailable))
		takeEvents(lane, "b")
		time.Sleep(time.Minute)
		expect(t, "code\"=\"Unavailable")

		spool.set(0, refuse(codes.Unauthenticated))
		time.Sleep(time.Minute)
		expect(t, "code\"=\"Unauthenticated")

		for range 100 {
			takeEvents(lane, "c")
		}
		expect(t, "buffer full")

		spool.set(0, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		require.Len(t, lines, 2, "%q", lines)
		lines = nil
		mu.Unlock()

		spool.set(0, refuse(codes.InvalidArgument))
		for range 50 {
			takeEvents(lane, "d")
			synctest.Wait()
		}
		expect(t, "livekit-spool rejects it")

		spool.set(0, nil)
		spool.dropped = []string{"mongo=1", "files=1"}
		for range 50 {
			takeEvents(lane, "e")
			synctest.Wait()
		}
		expect(t, "dropped\"=\"mongo=1, files=1")
	})
}

// The cost for a room per event of usual size: the time of take while nothing is acknowledged.
func BenchmarkTake(b *testing.B) {
	options := defaultLaneOptions("events")
	options.heldBytes = 64 << 20
	lane := newSpoolLane(options, nil)
	event := &livekit.AnalyticsEvent{
		Id: "AE_JvXZVq95H46w", NodeId: "ND_Hig7VxBrJVKB", Type: livekit.AnalyticsEventType_TRACK_PUBLISHED,
		RoomId: "RM_AsAriw3HaLMK", ParticipantId: "PA_4dcwDmynYmrT", TrackId: "TR_VCceEtNSrcT44H",
		Room: &livekit.Room{Sid: "RM_AsAriw3HaLMK", Name: "room", Metadata: strings.Repeat("m", 100)},
		Track: &livekit.TrackInfo{
			Sid: "TR_VCceEtNSrcT44H", MimeType: "video/VP8", Width: 1280, Height: 720, Stream: "camera",
			Layers: []*livekit.VideoLayer{{Width: 320, Height: 180}, {Width: 640, Height: 360}, {Width: 1280, Height: 720}},
		},
	}
	b.SetBytes(int64(proto.Size(event)))
	b.ReportAllocs()
	for b.Loop() {
		lane.take(event)
		if lane.heldBytes() > 60<<20 {
			b.StopTimer()
			lane.mu.Lock()
			lane.waiting, lane.gathering, lane.held = nil, nil, 0
			lane.mu.Unlock()
			b.StartTimer()
		}
	}
}
