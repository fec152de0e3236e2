// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

const (
	envSpoolURL         = "LIVEKIT_ANALYTICS_URL"
	envSpoolAPIKey      = "LIVEKIT_ANALYTICS_API_KEY"
	envSpoolAPISecret   = "LIVEKIT_ANALYTICS_API_SECRET"
	envSpoolCAFile      = "LIVEKIT_ANALYTICS_CA_FILE"
	envSpoolCertFile    = "LIVEKIT_ANALYTICS_CERT_FILE"
	envSpoolKeyFile     = "LIVEKIT_ANALYTICS_KEY_FILE"
	envSpoolBufferBytes = "LIVEKIT_ANALYTICS_BUFFER_BYTES"

	defaultSpoolPort        = "7890"
	defaultSpoolBufferBytes = 64 << 20
	minSpoolBufferBytes     = 1 << 20
)

// spoolSettings has the address of livekit-spool and the credentials.
type spoolSettings struct {
	target      string      // as gRPC names it: dns:///host:port or unix:path
	tls         *tls.Config // nil: plain text
	apiKey      string      // empty: no token is sent
	apiSecret   string
	bufferBytes int // memory for unacknowledged records of all streams together
}

// readSpoolSettings returns nil without an error when the URL is not set. keys are LiveKit's own: an API key among them
// needs no secret here.
func readSpoolSettings(getenv func(string) string, keys map[string]string) (*spoolSettings, error) {
	address := strings.TrimSpace(getenv(envSpoolURL))
	if address == "" {
		return nil, nil
	}
	settings := &spoolSettings{bufferBytes: defaultSpoolBufferBytes}

	target, secure, err := parseSpoolURL(address)
	if err != nil {
		return nil, err
	}
	settings.target = target

	certificates := [...]string{getenv(envSpoolCAFile), getenv(envSpoolCertFile), getenv(envSpoolKeyFile)}
	switch {
	case secure:
		if settings.tls, err = spoolTLS(certificates[0], certificates[1], certificates[2]); err != nil {
			return nil, err
		}
	case certificates != [3]string{}:
		return nil, fmt.Errorf("%s, %s and %s need TLS: write %s with grpcs://",
			envSpoolCAFile, envSpoolCertFile, envSpoolKeyFile, envSpoolURL)
	}

	settings.apiKey, settings.apiSecret = getenv(envSpoolAPIKey), getenv(envSpoolAPISecret)
	if settings.apiKey == "" && settings.apiSecret != "" {
		return nil, fmt.Errorf("%s is set without %s", envSpoolAPISecret, envSpoolAPIKey)
	}
	if settings.apiKey != "" && settings.apiSecret == "" {
		if settings.apiSecret = keys[settings.apiKey]; settings.apiSecret == "" {
			return nil, fmt.Errorf("%s is %q, which is not among LiveKit's keys: set %s too",
				envSpoolAPIKey, settings.apiKey, envSpoolAPISecret)
		}
	}

	if text := getenv(envSpoolBufferBytes); text != "" {
		settings.bufferBytes, err = strconv.Atoi(text)
		if err != nil || settings.bufferBytes < minSpoolBufferBytes {
			return nil, fmt.Errorf("%s is %q: give a number of bytes, %d or more", envSpoolBufferBytes, text, minSpoolBufferBytes)
		}
	}
	return settings, nil
}

// parseSpoolURL parses grpc:// and http:// (plain text), grpcs:// and https:// (TLS), unix:/path, and host:port. Its errors
// do not repeat the URL's user part, which can contain a secret.
func parseSpoolURL(address string) (target string, secure bool, err error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if !strings.HasPrefix(path, "/") {
			return "", false, fmt.Errorf("%s: a Unix socket needs an absolute path: unix:///run/livekit-spool.sock", envSpoolURL)
		}
		return "unix://" + path, false, nil
	}
	if !strings.Contains(address, "://") {
		address = "grpc://" + address
	}
	parsed, err := url.Parse(address)
	if err != nil {
		return "", false, fmt.Errorf("%s is not a URL: write it as grpc://host:%s", envSpoolURL, defaultSpoolPort)
	}
	if parsed.User != nil {
		return "", false, fmt.Errorf("%s contains a user or password: use %s and %s", envSpoolURL, envSpoolAPIKey, envSpoolAPISecret)
	}
	port := defaultSpoolPort
	switch parsed.Scheme {
	case "grpc":
	case "http":
		port = "80"
	case "grpcs":
		secure = true
	case "https":
		port, secure = "443", true
	default:
		return "", false, fmt.Errorf("%s has the scheme %q: use grpc, grpcs, http, https or unix", envSpoolURL, parsed.Scheme)
	}
	if parsed.Hostname() == "" {
		return "", false, fmt.Errorf("%s names no host: write it as grpc://host:%s", envSpoolURL, defaultSpoolPort)
	}
	if (parsed.Path != "" && parsed.Path != "/") || parsed.RawQuery != "" || parsed.Fragment != "" {
		return "", false, fmt.Errorf("%s has a part after the address: give only host and port", envSpoolURL)
	}
	if parsed.Port() != "" {
		port = parsed.Port()
	}
	return "dns:///" + net.JoinHostPort(parsed.Hostname(), port), secure, nil
}

func spoolTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", envSpoolCAFile, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: %s contains no PEM certificate", envSpoolCAFile, caFile)
		}
	}
	if (certFile == "") != (keyFile == "") {
		return nil, fmt.Errorf("set both %s and %s, or none", envSpoolCertFile, envSpoolKeyFile)
	}
	if certFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, errors.Join(fmt.Errorf("%s and %s cannot be used", envSpoolCertFile, envSpoolKeyFile), err)
		}
		// Read at each handshake: a renewed certificate needs no restart.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return config, nil
}
