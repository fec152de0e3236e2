// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

const (
	// livekit-spool accepts at most ten minutes of validity and only this audience: a participant's join token, signed with the
	// same secret, must not be accepted.
	spoolTokenAudience = "livekit-spool"
	spoolTokenValidity = 5 * time.Minute
	// Allows for a server whose clock is a little behind: it would find the token "not yet valid".
	spoolTokenSkew = 30 * time.Second
	// `SINK=N` for each of livekit-spool's sinks that did not keep all of what it acknowledges.
	spoolDroppedTrailer = "livekit-spool-dropped"
)

// spoolLink is the connection to livekit-spool, shared by the lanes. gRPC reconnects it; the lanes resend.
type spoolLink struct {
	connection        *grpc.ClientConn
	apiKey, apiSecret string
}

func newSpoolLink(settings *spoolSettings) (*spoolLink, error) {
	transport := insecure.NewCredentials()
	if settings.tls != nil {
		transport = credentials.NewTLS(settings.tls)
	}
	connection, err := grpc.NewClient(settings.target,
		grpc.WithTransportCredentials(transport),
		// gRPC's own default waits up to two minutes, which is too long for records in memory.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envSpoolURL, err)
	}
	return &spoolLink{connection: connection, apiKey: settings.apiKey, apiSecret: settings.apiSecret}, nil
}

// deliver opens a stream for these messages alone, so that the Empty that closes it acknowledges exactly them. No error
// means that livekit-spool has them on disk, except those that it reports as dropped by its configuration.
func (l *spoolLink) deliver(ctx context.Context, method string, messages [][]byte) (dropped []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if l.apiKey != "" {
		token, err := spoolToken(l.apiKey, l.apiSecret, time.Now())
		if err != nil {
			return nil, err
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	stream, err := l.connection.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method, grpc.ForceCodec(bytesCodec{}))
	if err != nil {
		return nil, err
	}
	for _, message := range messages {
		if err := stream.SendMsg(message); errors.Is(err, io.EOF) {
			break // the server has answered already: RecvMsg returns the reason
		} else if err != nil {
			return nil, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	var empty []byte
	if err := stream.RecvMsg(&empty); err != nil {
		return nil, err
	}
	return stream.Trailer().Get(spoolDroppedTrailer), nil
}

func (l *spoolLink) close() {
	_ = l.connection.Close() // fails only when closed before
}

// bytesCodec passes messages that are encoded already.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(value any) ([]byte, error) {
	message, ok := value.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T", value)
	}
	return message, nil
}

func (bytesCodec) Unmarshal(data []byte, value any) error {
	into, ok := value.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot receive a %T", value)
	}
	*into = append([]byte(nil), data...)
	return nil
}

// spoolToken makes a JWT (HS256). Signing takes microseconds, so each stream gets a new one and none has to be renewed.
func spoolToken(apiKey, apiSecret string, now time.Time) (string, error) {
	claims, err := json.Marshal(struct {
		Issuer    string `json:"iss"`
		Audience  string `json:"aud"`
		IssuedAt  int64  `json:"iat"`
		NotBefore int64  `json:"nbf"`
		Expires   int64  `json:"exp"`
	}{
		Issuer:    apiKey,
		Audience:  spoolTokenAudience,
		IssuedAt:  now.Add(-spoolTokenSkew).Unix(),
		NotBefore: now.Add(-spoolTokenSkew).Unix(),
		Expires:   now.Add(spoolTokenValidity).Unix(),
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	mac := hmac.New(sha256.New, []byte(apiSecret))
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil)), nil
}
