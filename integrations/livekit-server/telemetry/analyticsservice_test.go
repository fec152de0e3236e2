// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/rpc"

	"github.com/livekit/livekit-server/pkg/config"
	"github.com/livekit/livekit-server/pkg/routing"
)

const patience = 30 * time.Second

// recorder is a real gRPC server on loopback with LiveKit's own generated service.
type recorder struct {
	rpc.UnimplementedAnalyticsRecorderServiceServer
	address string
	options []grpc.ServerOption
	server  *grpc.Server

	mu        sync.Mutex
	refuse    func() error // called once a stream, after its messages came
	streams   int
	tokens    []string
	trailer   metadata.MD // of each answer
	events    []*livekit.AnalyticsEvent
	stats     []*livekit.AnalyticsStat
	nodeRooms []*livekit.AnalyticsNodeRooms
}

func startRecorder(t *testing.T, options ...grpc.ServerOption) *recorder {
	r := &recorder{address: "127.0.0.1:0", options: options}
	r.start(t)
	t.Cleanup(func() { r.server.Stop() })
	return r
}

func (r *recorder) start(t *testing.T) {
	listener, err := net.Listen("tcp", r.address)
	require.NoError(t, err)
	r.address = listener.Addr().String()
	r.server = grpc.NewServer(r.options...)
	rpc.RegisterAnalyticsRecorderServiceServer(r.server, r)
	go func() { _ = r.server.Serve(listener) }()
}

// receive reads a stream to its end, then keeps what came, unless the test refuses it, and acknowledges.
func receive[T any](r *recorder, stream grpc.ClientStreamingServer[T, emptypb.Empty], keep func(*T)) error {
	var messages []*T
	for {
		message, err := stream.Recv()
		if message == nil {
			break
		}
		if err != nil {
			return err
		}
		messages = append(messages, message)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams++
	if incoming, ok := metadata.FromIncomingContext(stream.Context()); ok {
		r.tokens = append(r.tokens, incoming.Get("authorization")...)
	}
	for _, message := range messages {
		keep(message)
	}
	stream.SetTrailer(r.trailer)
	if r.refuse != nil {
		if err := r.refuse(); err != nil {
			return err
		}
	}
	return stream.SendAndClose(&emptypb.Empty{})
}

func (r *recorder) IngestEvents(stream rpc.AnalyticsRecorderService_IngestEventsServer) error {
	return receive(r, stream, func(m *livekit.AnalyticsEvents) { r.events = append(r.events, m.Events...) })
}

func (r *recorder) IngestStats(stream rpc.AnalyticsRecorderService_IngestStatsServer) error {
	return receive(r, stream, func(m *livekit.AnalyticsStats) { r.stats = append(r.stats, m.Stats...) })
}

func (r *recorder) IngestNodeRoomStates(stream rpc.AnalyticsRecorderService_IngestNodeRoomStatesServer) error {
	return receive(r, stream, func(m *livekit.AnalyticsNodeRooms) { r.nodeRooms = append(r.nodeRooms, m) })
}

func (r *recorder) eventually(t *testing.T, holds func() bool) {
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return holds()
	}, patience, 5*time.Millisecond)
}

func localNode(t *testing.T) routing.LocalNode {
	node, err := routing.NewLocalNode(nil)
	require.NoError(t, err)
	return node
}

// startService makes the service as livekit-server does, with this environment.
func startService(t *testing.T, node routing.LocalNode, environment map[string]string) *analyticsService {
	for _, name := range []string{
		envSpoolURL, envSpoolAPIKey, envSpoolAPISecret, envSpoolCAFile, envSpoolCertFile, envSpoolKeyFile, envSpoolBufferBytes,
	} {
		t.Setenv(name, environment[name])
	}
	service, ok := NewAnalyticsService(&config.Config{}, node).(*analyticsService)
	require.True(t, ok)
	if service.spool != nil {
		t.Cleanup(service.spool.stop)
	}
	return service
}

func TestWithoutAURLTheServiceDoesWhatTheStockOneDoes(t *testing.T) {
	service := startService(t, localNode(t), nil)
	event, stat, rooms := &livekit.AnalyticsEvent{}, &livekit.AnalyticsStat{}, &livekit.AnalyticsNodeRooms{}
	service.SendEvent(t.Context(), event)
	service.SendStats(t.Context(), []*livekit.AnalyticsStat{stat})
	service.SendNodeRoomStates(t.Context(), rooms)
	require.Nil(t, service.spool)
	for _, message := range []proto.Message{event, stat, rooms} {
		require.Zero(t, proto.Size(message), "the stock service stamps nothing that it does not send")
	}
	require.NotNil(t, service.RoomProjectReporter(t.Context()))
	require.Nil(t, NullAnalyticService{}.RoomProjectReporter(t.Context()))
}

func TestUnusableSettingsTurnAnalyticsOffAndNotTheServer(t *testing.T) {
	service := startService(t, localNode(t), map[string]string{envSpoolURL: "ftp://spool"})
	service.SendEvent(t.Context(), &livekit.AnalyticsEvent{})
	require.Nil(t, service.spool)
}

func TestEventsAndStatsArriveStampedAsLiveKitStampsThem(t *testing.T) {
	recorder, node := startRecorder(t), localNode(t)
	service := startService(t, node, map[string]string{envSpoolURL: "grpc://" + recorder.address})
	service.SendEvent(t.Context(), &livekit.AnalyticsEvent{Type: livekit.AnalyticsEventType_ROOM_CREATED, RoomId: "RM_1"})
	service.SendStats(t.Context(), []*livekit.AnalyticsStat{{TrackId: "TR_1"}, {TrackId: "TR_2"}})
	recorder.eventually(t, func() bool { return len(recorder.events) == 1 && len(recorder.stats) == 2 })

	event := recorder.events[0]
	require.Equal(t, livekit.AnalyticsEventType_ROOM_CREATED, event.Type)
	require.Equal(t, "RM_1", event.RoomId)
	require.Equal(t, string(node.NodeID()), event.NodeId)
	require.Regexp(t, "^AE_[0-9A-Za-z]{12}$", event.Id)
	require.Equal(t, "TR_1", recorder.stats[0].TrackId)
	require.Equal(t, "TR_2", recorder.stats[1].TrackId)
	require.NotEqual(t, recorder.stats[0].Id, recorder.stats[1].Id)
	for _, stat := range recorder.stats {
		require.Equal(t, string(node.NodeID()), stat.Node)
		require.Regexp(t, "^AS_[0-9A-Za-z]{12}$", stat.Id)
	}
	require.Empty(t, recorder.tokens, "no API key, no token")
}

func TestNodeRoomStatesArriveNumberedAndDated(t *testing.T) {
	recorder, node := startRecorder(t), localNode(t)
	service := startService(t, node, map[string]string{envSpoolURL: recorder.address})
	telemetry := NewTelemetryService(nil, service)
	for n := range 3 {
		telemetry.LocalRoomState(t.Context(), &livekit.AnalyticsNodeRooms{
			Rooms: []*livekit.AnalyticsRoom{{Id: fmt.Sprint("RM_", n), Name: "states"}},
		})
	}
	recorder.eventually(t, func() bool { return len(recorder.nodeRooms) == 3 })
	for n, rooms := range recorder.nodeRooms {
		require.Equal(t, string(node.NodeID()), rooms.NodeId)
		require.EqualValues(t, n+1, rooms.SequenceNumber)
		require.WithinDuration(t, time.Now(), rooms.Timestamp.AsTime(), time.Minute)
		require.Equal(t, fmt.Sprint("RM_", n), rooms.Rooms[0].Id)
	}
}

func TestARecordArrivesAsItWasWhenItWasHandedOver(t *testing.T) {
	recorder := startRecorder(t)
	service := startService(t, localNode(t), map[string]string{envSpoolURL: recorder.address})
	room := &livekit.Room{Sid: "RM_1", NumParticipants: 1}
	for range 100 {
		service.SendEvent(t.Context(), &livekit.AnalyticsEvent{Room: room})
	}
	room.NumParticipants = 2 // LiveKit continues to use it
	recorder.eventually(t, func() bool { return len(recorder.events) == 100 })
	for _, event := range recorder.events {
		require.EqualValues(t, 1, event.Room.NumParticipants)
	}
}

func TestEachGroupHasAStreamAndAFailedOneComesAgainWithTheSameIDs(t *testing.T) {
	recorder := startRecorder(t)
	refusals := 3
	recorder.refuse = func() error {
		if refusals == 0 {
			return nil
		}
		refusals--
		return status.Error(codes.Unavailable, "after taking it all")
	}
	service := startService(t, localNode(t), map[string]string{envSpoolURL: recorder.address})
	service.SendEvent(t.Context(), &livekit.AnalyticsEvent{RoomId: "RM_1"})
	recorder.eventually(t, func() bool { return recorder.streams == 4 })
	require.Len(t, recorder.events, 4)
	for _, event := range recorder.events {
		require.True(t, proto.Equal(recorder.events[0], event))
	}
}

func TestWhatLivekitSpoolDroppedIsCounted(t *testing.T) {
	recorder := startRecorder(t)
	recorder.trailer = metadata.Pairs(spoolDroppedTrailer, "mongo=1", spoolDroppedTrailer, "files=1")
	service := startService(t, localNode(t), map[string]string{envSpoolURL: recorder.address})
	service.SendEvent(t.Context(), &livekit.AnalyticsEvent{RoomId: "RM_1"})
	counters := &service.spool.events.counters
	require.Eventually(t, func() bool { return counters.droppedBySpool.Load() == 2 }, patience, 5*time.Millisecond)
	require.EqualValues(t, 1, counters.acknowledged.Load())
}

func TestNothingIsLostWhileTheSpoolIsAway(t *testing.T) {
	recorder := startRecorder(t)
	service := startService(t, localNode(t), map[string]string{envSpoolURL: recorder.address})
	sent := 0
	send := func(count int) {
		for range count {
			sent++
			service.SendEvent(t.Context(), &livekit.AnalyticsEvent{RoomId: fmt.Sprint("RM_", sent)})
		}
	}
	for range 3 {
		began := sent
		send(50)
		recorder.eventually(t, func() bool {
			return slices.ContainsFunc(recorder.events, func(e *livekit.AnalyticsEvent) bool {
				return e.RoomId == fmt.Sprint("RM_", began+1)
			})
		})
		send(50)
		recorder.server.Stop() // what is under way is cut off
		send(2500)
		recorder.start(t)
	}
	distinct := func() int {
		rooms, ids := map[string]string{}, map[string]bool{}
		for _, event := range recorder.events {
			if id, again := rooms[event.RoomId]; again {
				require.Equal(t, id, event.Id, "a resend keeps its id")
			}
			rooms[event.RoomId], ids[event.Id] = event.Id, true
		}
		require.Len(t, ids, len(rooms))
		return len(rooms)
	}
	recorder.eventually(t, func() bool { return distinct() == sent })
	require.Eventually(t, func() bool { return service.spool.events.heldBytes() == 0 }, patience, 5*time.Millisecond)
	require.EqualValues(t, sent, service.spool.events.counters.acknowledged.Load())
	require.Zero(t, service.spool.events.counters.droppedFull.Load())
}

func TestEachStreamBringsAFreshTokenForLivekitSpoolAlone(t *testing.T) {
	recorder := startRecorder(t)
	service := startService(t, localNode(t), map[string]string{
		envSpoolURL: recorder.address, envSpoolAPIKey: "devkey", envSpoolAPISecret: "a secret",
	})
	service.SendEvent(t.Context(), &livekit.AnalyticsEvent{})
	recorder.eventually(t, func() bool { return len(recorder.tokens) == 1 })

	token, isBearer := strings.CutPrefix(recorder.tokens[0], "Bearer ")
	require.True(t, isBearer)
	parts := strings.Split(token, ".")
	require.Len(t, parts, 3)
	mac := hmac.New(sha256.New, []byte("a secret"))
	mac.Write([]byte(parts[0] + "." + parts[1]))
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	require.NoError(t, err)
	require.Equal(t, mac.Sum(nil), signature)

	var header, claims map[string]any
	for part, into := range map[string]*map[string]any{parts[0]: &header, parts[1]: &claims} {
		text, err := base64.RawURLEncoding.DecodeString(part)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, into))
	}
	require.Equal(t, map[string]any{"alg": "HS256", "typ": "JWT"}, header)
	require.Equal(t, "devkey", claims["iss"])
	require.Equal(t, "livekit-spool", claims["aud"])
	issued, expires := claims["iat"].(float64), claims["exp"].(float64)
	require.LessOrEqual(t, expires-issued, (10 * time.Minute).Seconds())
	require.LessOrEqual(t, claims["nbf"], float64(time.Now().Unix()))
	require.Greater(t, expires, float64(time.Now().Add(time.Minute).Unix()))
}

func TestTLSTrustsOnlyTheGivenAuthorityAndShowsOurCertificate(t *testing.T) {
	certFile, keyFile, pair, pool := makeCertificate(t)
	recorder := startRecorder(t, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	service := startService(t, localNode(t), map[string]string{
		envSpoolURL: "grpcs://" + recorder.address, envSpoolCAFile: certFile, envSpoolCertFile: certFile, envSpoolKeyFile: keyFile,
	})
	service.SendEvent(t.Context(), &livekit.AnalyticsEvent{})
	recorder.eventually(t, func() bool { return len(recorder.events) == 1 })

	stranger := startService(t, localNode(t), map[string]string{envSpoolURL: "grpcs://" + recorder.address})
	stranger.SendEvent(t.Context(), &livekit.AnalyticsEvent{})
	require.Eventually(t, func() bool { return stranger.spool.events.counters.resends.Load() > 0 }, patience, 5*time.Millisecond)
	require.Len(t, recorder.events, 1)
}

// makeCertificate makes a self-signed certificate for 127.0.0.1, good for both ends.
func makeCertificate(t *testing.T) (certFile, keyFile string, pair tls.Certificate, pool *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, keyPEM, 0o600))
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	pool = x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(certPEM))
	return certFile, keyFile, pair, pool
}
