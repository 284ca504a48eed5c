package session

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
)

// checkTarget finds what no name resolver can make sense of: it would be tried again like an outage. Of a target that is
// looked up in the DNS it returns host and port, of any other it knows nothing.
func checkTarget(target, canonical string) (address string, err error) {
	name, ok := strings.CutPrefix(canonical, "dns:")
	if !ok {
		return "", nil
	}
	if authority, found := strings.CutPrefix(name, "//"); found {
		_, name, _ = strings.Cut(authority, "/")
	}
	name = strings.TrimPrefix(name, "/")
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("session: the target %q %s", target, fmt.Sprintf(format, args...))
	}
	if scheme, rest, found := strings.Cut(name, "://"); found {
		rest, _, _ = strings.Cut(rest, "/")
		if _, _, err := net.SplitHostPort(rest); err != nil {
			rest += ":PORT"
		}
		return "", wrong("is a URL, and %s is no scheme of gRPC's: write %q; WithTransportCredentials says whether to use TLS",
			scheme, rest)
	}
	if strings.ContainsAny(name, " \t/?#@") || strings.HasSuffix(name, ":") {
		return "", wrong(`is no host and port: write it like "example.com:50051"`)
	}
	host, port, err := net.SplitHostPort(name)
	switch {
	case err == nil:
	case strings.Count(name, ":") > 1 && !strings.HasPrefix(name, "["):
		return "", wrong(`is neither a host and port nor an IPv6 address with a port: write such as "[::1]:50051"`)
	case name == "":
		return "", wrong(`names no host: write it like "example.com:50051", or "dns:///example.com:50051"`)
	default:
		return "", wrong("has no port: write it like %q, or %q if that is what you mean", name+":50051", name+":443")
	}
	number, err := strconv.Atoi(port)
	if err != nil { // the name of a service, perhaps
		number, err = net.LookupPort("tcp", port)
	}
	if err != nil || number < 1 || number > 65535 {
		return "", wrong("has the port %q: a port is a number from 1 to 65535", port)
	}
	return net.JoinHostPort(host, port), nil
}

// sendable returns metadata as gRPC takes it. Capitals are no mistake: HTTP/2 has none. The error does not show a value,
// which may be a secret.
func sendable(md metadata.MD) (metadata.MD, error) {
	out := metadata.MD{}
	for name, values := range md {
		key := strings.ToLower(name)
		if key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			return nil, fmt.Errorf("metadata cannot have the key %q: write it with letters, digits and -_. only", name)
		}
		for _, value := range values {
			n := strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r > '~' })
			if n < 0 || strings.HasSuffix(key, "-bin") {
				continue
			}
			if strings.Trim(value, "\r\n") != value {
				return nil, fmt.Errorf("the value of the metadata %q begins or ends with a line break: take it away,"+
					" as strings.TrimSpace does", name)
			}
			return nil, fmt.Errorf("the value of the metadata %q cannot be sent, for its byte %d is no printable ASCII:"+
				" a key that ends in -bin takes any bytes", name, n)
		}
		out[key] = append(out[key], values...)
	}
	return out, nil
}

// What gRPC and crypto/tls say where two sides do not speak the same language, which no time mends.
var mismatches = []struct{ said, means string }{
	{"first record does not look like a TLS handshake",
		"the server's port does not speak TLS: use WithTransportCredentials(insecure.NewCredentials()), or its TLS port"},
	{"error reading server preface: http2:",
		"the server's port does not speak HTTP/2, or not without TLS: use the port that serves gRPC"},
	{"tls: no application protocol",
		"the server's port speaks HTTP/1 only: use the port that serves gRPC"},
	{"missing selected ALPN property",
		"the server's port speaks HTTP/1 only: use the port that serves gRPC"},
	{"tls: failed to verify certificate",
		"the server's certificate is not trusted: use WithTransportCredentials with its authority, and the name it is for"},
	{"tls: certificate required", wrongCertificate},
	{"tls: bad certificate", wrongCertificate},
	{"tls: unknown certificate authority", wrongCertificate},
	{"tls: handshake failure", wrongCertificate},
	{"tls: protocol version not supported", wrongCertificate},
	{"invalid target address", wrongTarget},
	{"missing port in address", wrongTarget},
	{"missing address", wrongTarget},
	{": invalid port", wrongTarget},
	{": unknown port", wrongTarget},
}

const (
	wrongCertificate = "the server refuses the TLS handshake: see whether it asks for a client's certificate, or another version"

	wrongTarget = `the target cannot be connected to: write it like "example.com:50051"`
	wrongPlain  = "the server's port speaks TLS: use WithTransportCredentials(credentials.NewTLS(nil)), or leave that away"
)

// mismatch returns what is wrong for good with a connection that could not be made; empty where it may be an outage.
func (c *Client) mismatch(ctx context.Context, said string) string {
	for _, m := range mismatches {
		if strings.Contains(said, m.said) {
			return m.means
		}
	}
	// A TLS port just hangs up on plain text, which looks like an outage. Asked in its own language it answers.
	if c.plainAddress != "" && strings.Contains(said, "error reading server preface") && speaksTLS(ctx, c.plainAddress) {
		return wrongPlain
	}
	return ""
}

func speaksTLS(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	// Nothing is said to the server, so it need not be trusted.
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return strings.Contains(err.Error(), "remote error: tls:")
	}
	_ = conn.Close() // it has answered, that is all
	return true
}
