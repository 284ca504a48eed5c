package session_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/session-service/session-service/clients/go/internal/servertest"
	"github.com/session-service/session-service/clients/go/session"
)

func TestMoreSessionsThanAConnectionCarriesOpenFurtherConnections(t *testing.T) {
	const each, total = 10, 35
	address := servertest.Start(t, "--max-connection-streams", "10")
	ctx := within(t)
	client := clientOf(t, address)
	all := make([]*session.Session, total)
	var opening sync.WaitGroup
	for n := range all {
		opening.Go(func() {
			s, err := client.Open(ctx, "echo")
			if err != nil {
				t.Errorf("number %d: %v", n, err)
				return
			}
			all[n] = s
		})
	}
	opening.Wait()
	if t.Failed() {
		return
	}
	for n, s := range all {
		if err := s.Send(ctx, "say", n); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Receive(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range all {
		if _, err := s.Close(ctx, ""); err != nil {
			t.Error(err)
		}
	}
}

func carrying(most uint32) []grpc.ServerOption {
	return []grpc.ServerOption{grpc.MaxConcurrentStreams(most)}
}

func TestAConnectionThatIsFullIsFoundOutOnceAndRoomIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serveWith(t, carrying(2), slices.Repeat([]script{ends}, 7)...)
		client := f.client()
		open := func() *session.Session { return mustOpen(t, client) }
		began := time.Now()
		first, _ := open(), open()
		if time.Since(began) > 0 {
			t.Errorf("two took %v", time.Since(began))
		}
		third := open()
		if took := time.Since(began); took != time.Second {
			t.Errorf("the third took %v", took)
		}
		open()
		open()
		if took := time.Since(began); took != time.Second {
			t.Errorf("with what is known by now the others took %v", took)
		}
		for _, s := range []*session.Session{first, third} {
			if _, err := numbers(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			open()
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("where room was free again the others took %v", took)
		}
	})
}

func TestAFullConnectionIsFoundOutWithinTheTimeOfOneTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serveWith(t, carrying(1), ends, ends)
		client := f.client(session.WithRetryPolicy(session.RetryPolicy{AttachTimeout: 200 * time.Millisecond}))
		mustOpen(t, client)
		mustOpen(t, client)
		mustBegin(t, f, "open", "open")
	})
}

func TestAConnectionThatIsNotTheClientsIsFullAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		before := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		defer slog.SetDefault(before)

		f := serveWith(t, carrying(1), ends, ends)
		conn, err := grpc.NewClient("passthrough:///fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return f.listener.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := session.NewClientFromConn(conn)
		defer client.Close()
		first := mustOpen(t, client)
		opened := make(chan error)
		go func() {
			_, err := client.Open(t.Context(), "app")
			opened <- err
		}()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if said := log.String(); strings.Count(said, "carries no more streams") != 1 {
			t.Errorf("said %q", said)
		}
		if _, err := numbers(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if err := <-opened; err != nil {
			t.Error(err)
		}
	})
}
