package session_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/session-service/session-service/clients/go/session"
)

func TestATargetThatCannotBeRightIsRefusedWithWhatToWriteInstead(t *testing.T) {
	for target, want := range map[string]string{
		"http://example.com:50051":     `"example.com:50051"`,
		"https://example.com:443/":     `"example.com:443"`,
		"http://example.com":           `"example.com:PORT"`,
		"grpcs://example.com:443/path": `"example.com:443"`,
		"ws://[::1]:50051":             `"[::1]:50051"`,
		"example.com":                  `"example.com:50051"`,
		"dns:///example.com":           `"example.com:50051"`,
		"127.0.0.1":                    `"127.0.0.1:50051"`,
		"[::1]":                        `"[::1]:50051"`,
		"::1":                          `"[::1]:50051"`,
		"::1:50051":                    `"[::1]:50051"`,
		"tcp:example.com:50051":        "host and port",
		"dns://example.com:50051":      "names no host",
		"":                             "names no host",
		"example.com:":                 "host and port",
		"example.com:0":                "1 to 65535",
		"example.com:99999":            "1 to 65535",
		"example.com:nosuchservice":    "1 to 65535",
		"example.com:50051/":           "host and port",
		"example.com:50051/path":       "host and port",
		"user@example.com:50051":       "host and port",
		" example.com:50051":           "host and port",
		"example.com :50051":           "host and port",
		"example.com:50051\n":          "invalid control character",
	} {
		client, err := session.NewClient(target)
		if err == nil {
			_ = client.Close()
			t.Errorf("%q is taken", target)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", target, err)
		}
	}
}

func TestTargetsThatGRPCTakesAreTaken(t *testing.T) {
	for _, target := range []string{
		"example.com:50051", "localhost:https", ":50051", "127.0.0.1:1", "[::1]:65535", "dns:///example.com:50051",
		"dns://8.8.8.8/example.com:50051", "dns:example.com:50051", "unix:/run/sessions.sock", "unix:///run/sessions.sock",
		"unix:relative", "passthrough:///anything",
	} {
		client, err := session.NewClient(target)
		if err != nil {
			t.Errorf("%q: %v", target, err)
			continue
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}

func presenting(md metadata.MD) session.Option {
	return session.WithCredentials(func(context.Context) (metadata.MD, error) { return md, nil })
}

func TestMetadataThatCannotBeSentIsFinalAndItsValueIsNotShown(t *testing.T) {
	for name, test := range map[string]struct {
		md   metadata.MD
		want string
	}{
		"a line break at the end": {metadata.Pairs("authorization", "Bearer secret\n"), "strings.TrimSpace"},
		"a line break within":     {metadata.Pairs("authorization", "Bearer\nsecret"), "byte 6"},
		"a letter beyond ASCII":   {metadata.Pairs("authorization", "secret ä"), "byte 7"},
		"a tab":                   {metadata.Pairs("x", "secret\tx"), "-bin"},
		"a key with a space":      {metadata.Pairs("a b", "secret"), "letters"},
		"no key":                  {metadata.MD{"": {"secret"}}, "letters"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := serve(t, ends)
				began := time.Now()
				_, err := f.client(presenting(test.md)).Open(t.Context(), "app")
				refused := mustRefuse(t, err)
				if !strings.Contains(refused.Message, test.want) || strings.Contains(err.Error(), "secret") {
					t.Errorf("got %v", err)
				}
				if len(f.all()) > 0 || time.Since(began) > 0 {
					t.Errorf("%d calls in %v", len(f.all()), time.Since(began))
				}
			})
		})
	}
}

func TestCredentialsThatGoBadAreFinalLaterToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := "fine"
		f := serve(t, attached(nil), ends)
		_, err := talk(t, f, session.WithCredentials(func(context.Context) (metadata.MD, error) {
			defer func() { token += "\n" }()
			return metadata.Pairs("authorization", token), nil
		}))
		mustRefuse(t, err)
		mustBegin(t, f, "open")
	})
}

func TestCapitalsInAKeyAreNoMistake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		md := metadata.MD{"Authorization": {"Bearer x"}, "X-Bin": {"no"}, "x-bin": {"\n\xff"}}
		f := serve(t, ends)
		mustTalk(t, f, presenting(md))
		got := f.all()[0].metadata
		binary := got.Get("x-bin")
		slices.Sort(binary)
		if !slices.Equal(got.Get("authorization"), []string{"Bearer x"}) || !slices.Equal(binary, []string{"\n\xff", "no"}) {
			t.Errorf("it got %v", got)
		}
	})
}

func TestWhatGRPCRejectsOnThisSideIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := presenting(metadata.Pairs("authorization", strings.Repeat("x", 20_000)))
		f := serveWith(t, []grpc.ServerOption{grpc.MaxHeaderListSize(8_000)}, ends)
		_, err := f.client(long).Open(t.Context(), "app")
		if refused := mustRefuse(t, err); !strings.Contains(refused.Message, "header list size") {
			t.Errorf("got %v", refused)
		}
		mustBegin(t, f)
	})
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		growing := session.WithCredentials(func(context.Context) (metadata.MD, error) {
			asked++
			if asked == 2 {
				return metadata.Pairs("authorization", strings.Repeat("x", 20_000)), nil
			}
			return nil, nil
		})
		f := serveWith(t, []grpc.ServerOption{grpc.MaxHeaderListSize(8_000)}, attached(nil), ends)
		mustTalk(t, f, growing) // the next try saves a session that there is
	})
	conn, err := grpc.NewClient("example.com:50051", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	client := session.NewClientFromConn(conn)
	defer client.Close()
	_, err = client.Open(within(t), "app")
	mustRefuse(t, err)
}

// talks is a listener that says something to whoever connects, and hangs up when it has had an answer.
func talks(t *testing.T, text string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(text))
			_, _ = conn.Read(make([]byte, 100))
			_ = conn.Close()
		}
	}()
	return listener.Addr().String()
}

func TestAPortThatSpeaksSomethingElseIsSaidAtOnce(t *testing.T) {
	quiet := func(server *httptest.Server) *httptest.Server {
		t.Cleanup(server.Close)
		return server
	}
	hello := http.NotFoundHandler()
	http1 := quiet(httptest.NewServer(hello)).Listener.Addr().String()
	https1 := quiet(httptest.NewTLSServer(hello)).Listener.Addr().String()
	h2 := quiet(httptest.NewUnstartedServer(hello))
	h2.EnableHTTP2 = true
	h2.StartTLS()
	https2 := h2.Listener.Addr().String()
	mutual := quiet(httptest.NewUnstartedServer(hello))
	mutual.EnableHTTP2 = true
	mutual.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	mutual.StartTLS()
	plain, anyTLS := insecure.NewCredentials(), credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	for name, test := range map[string]struct {
		address string
		creds   credentials.TransportCredentials
		want    string
	}{
		"plain text to HTTP/1":            {http1, plain, "does not speak HTTP/2"},
		"plain text to a web page":        {talks(t, "<!DOCTYPE HTML>"), plain, "does not speak HTTP/2"},
		"plain text to SSH":               {talks(t, "SSH-2.0-OpenSSH_9.9\r\n"), plain, "does not speak HTTP/2"},
		"plain text to TLS":               {https2, plain, "speaks TLS"},
		"plain text to HTTP/1 over TLS":   {https1, plain, "speaks TLS"},
		"TLS to HTTP/1":                   {http1, anyTLS, "does not speak TLS"},
		"TLS to SSH":                      {talks(t, "SSH-2.0-OpenSSH_9.9\r\n"), anyTLS, "does not speak TLS"},
		"TLS to HTTP/1 over TLS":          {https1, anyTLS, "HTTP/1 only"},
		"TLS that is not trusted":         {https2, nil, "not trusted"},
		"TLS without a certificate":       {mutual.Listener.Addr().String(), anyTLS, "client's certificate"},
		"plain text to mutual TLS":        {mutual.Listener.Addr().String(), plain, "speaks TLS"},
		"HTTP/2 that does not serve gRPC": {https2, anyTLS, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			var opts []session.Option
			if test.creds != nil {
				opts = append(opts, session.WithTransportCredentials(test.creds))
			}
			client, err := session.NewClient(test.address, opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			_, err = client.Open(within(t), "app")
			if refused := mustRefuse(t, err); !strings.Contains(refused.Message, test.want) {
				t.Errorf("got %v", refused)
			}
		})
	}
}

func TestAnOutageIsNoMistake(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	hangsUp := talks(t, "")
	for name, address := range map[string]string{"a closed port": closed.Addr().String(), "a proxy without a server": hangsUp} {
		t.Run(name, func(t *testing.T) {
			client := clientOf(t, address)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := client.Open(ctx, "app")
			if !errors.Is(err, context.DeadlineExceeded) || status.Code(err) != codes.Unavailable {
				t.Errorf("got %v", err)
			}
		})
	}
}
