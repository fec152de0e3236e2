// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func settingsFrom(environment map[string]string) (*spoolSettings, error) {
	keys := map[string]string{"devkey": "a secret of LiveKit's own"}
	return readSpoolSettings(func(name string) string { return environment[name] }, keys)
}

func TestSpoolSettingsAreNoneWithoutAURL(t *testing.T) {
	settings, err := settingsFrom(map[string]string{envSpoolAPIKey: "devkey"})
	require.NoError(t, err)
	require.Nil(t, settings)
}

func TestSpoolURLSaysWhereAndWhetherEncrypted(t *testing.T) {
	for address, want := range map[string]struct {
		target string
		tls    bool
	}{
		"grpc://spool":             {"dns:///spool:7890", false},
		"grpc://127.0.0.1:7000/":   {"dns:///127.0.0.1:7000", false},
		"grpc://[::1]:7890":        {"dns:///[::1]:7890", false},
		"http://spool":             {"dns:///spool:80", false},
		"spool:7890":               {"dns:///spool:7890", false},
		"spool":                    {"dns:///spool:7890", false},
		"grpcs://spool.test":       {"dns:///spool.test:7890", true},
		"https://spool.test":       {"dns:///spool.test:443", true},
		"https://spool.test:7890":  {"dns:///spool.test:7890", true},
		"unix:///run/spool.sock":   {"unix:///run/spool.sock", false},
		"unix:/run/spool.sock":     {"unix:///run/spool.sock", false},
		"  grpc://127.0.0.1:7890 ": {"dns:///127.0.0.1:7890", false},
	} {
		settings, err := settingsFrom(map[string]string{envSpoolURL: address})
		require.NoError(t, err, address)
		require.Equal(t, want.target, settings.target, address)
		require.Equal(t, want.tls, settings.tls != nil, address)
		require.Equal(t, defaultSpoolBufferBytes, settings.bufferBytes, address)
	}
}

func TestSpoolSettingsThatCannotWorkSayWhatToChange(t *testing.T) {
	for name, test := range map[string]struct {
		environment map[string]string
		says        string
	}{
		"scheme":        {map[string]string{envSpoolURL: "mongodb://spool"}, "grpcs"},
		"no host":       {map[string]string{envSpoolURL: "grpc://"}, "no host"},
		"path":          {map[string]string{envSpoolURL: "grpc://spool/events"}, "only host and port"},
		"relative path": {map[string]string{envSpoolURL: "unix:spool.sock"}, "absolute path"},
		"bad port":      {map[string]string{envSpoolURL: "grpc://spool:port"}, "not a URL"},
		"secret in URL": {map[string]string{envSpoolURL: "grpc://key:hunter2@spool"}, envSpoolAPISecret},
		"secret, unparsable": {
			map[string]string{envSpoolURL: "grpc://key:hunter2@spool:port"}, "not a URL",
		},
		"key unknown": {
			map[string]string{envSpoolURL: "spool", envSpoolAPIKey: "other"}, envSpoolAPISecret,
		},
		"secret without key": {
			map[string]string{envSpoolURL: "spool", envSpoolAPISecret: "hunter2"}, envSpoolAPIKey,
		},
		"CA without TLS": {map[string]string{envSpoolURL: "spool", envSpoolCAFile: "ca.pem"}, "grpcs://"},
		"CA missing":     {map[string]string{envSpoolURL: "grpcs://spool", envSpoolCAFile: "/nonexistent"}, envSpoolCAFile},
		"half a certificate": {
			map[string]string{envSpoolURL: "grpcs://spool", envSpoolCertFile: "cert.pem"}, envSpoolKeyFile,
		},
		"buffer too small": {map[string]string{envSpoolURL: "spool", envSpoolBufferBytes: "1024"}, envSpoolBufferBytes},
		"buffer no number": {map[string]string{envSpoolURL: "spool", envSpoolBufferBytes: "1MiB"}, envSpoolBufferBytes},
	} {
		_, err := settingsFrom(test.environment)
		require.ErrorContains(t, err, test.says, name)
		require.NotContains(t, err.Error(), "hunter2", name)
	}
}

func TestSpoolAPIKeyTakesItsSecretFromTheEnvironmentElseFromLiveKit(t *testing.T) {
	settings, err := settingsFrom(map[string]string{envSpoolURL: "spool", envSpoolAPIKey: "devkey"})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(settings.apiSecret, "a secret of LiveKit"))

	settings, err = settingsFrom(map[string]string{
		envSpoolURL: "spool", envSpoolAPIKey: "devkey", envSpoolAPISecret: "its own",
	})
	require.NoError(t, err)
	require.Equal(t, "its own", settings.apiSecret)
}
