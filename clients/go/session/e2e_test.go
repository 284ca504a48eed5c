package session_test

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/session-service/session-service/clients/go/examples/climatepb"
	"github.com/session-service/session-service/clients/go/internal/servertest"
	"github.com/session-service/session-service/clients/go/session"
)

// patience bounds what a test waits for a real server.
const patience = 30 * time.Second

func clientOf(t *testing.T, address string, opts ...session.Option) *session.Client {
	t.Helper()
	client, err := session.NewClient(address, append([]session.Option{
		session.WithTransportCredentials(insecure.NewCredentials()),
		session.WithRetryPolicy(session.RetryPolicy{Initial: time.Millisecond, Maximum: 20 * time.Millisecond}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestRealServer(t *testing.T) {
	address := servertest.Start(t)
	for name, opts := range map[string][]session.OpenOption{"resumable": nil, "plain": {session.Plain()}} {
		t.Run(name+": the example of the documentation works", func(t *testing.T) { greet(t, address, opts) })
		t.Run(name+": data goes up and comes back unchanged", func(t *testing.T) { echo(t, address, opts) })
	}
	t.Run("messages of a type that both know are what they are", func(t *testing.T) { climate(t, address) })
	t.Run("an app that is not served is refused", func(t *testing.T) {
		_, err := clientOf(t, address).Open(within(t), "nope")
		if refused := mustRefuse(t, err); refused.Reason != "APP_NOT_FOUND" {
			t.Errorf("got %v", refused)
		}
	})
	t.Run("another client goes on where one has detached", func(t *testing.T) { handOver(t, address) })
	t.Run("a conversation with thirty cuts reads like one without", func(t *testing.T) { cuts(t, address) })
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func greet(t *testing.T, address string, opts []session.OpenOption) {
	ctx := within(t)
	s, err := clientOf(t, address).Open(ctx, "greet", append(opts, session.WithParams(map[string]any{"name": "Ada"}))...)
	if err != nil {
		t.Fatal(err)
	}
	var said string
	for command := range s.Commands(ctx) {
		var spec struct{ Question, Text string }
		if err := command.Decode(&spec); err != nil {
			t.Fatal(err)
		}
		said += spec.Question + spec.Text
		if command.Name == "ask" {
			if err := s.SendTo(ctx, command.TaskID, "answer", 36); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Err(); err != nil || said != "How old are you, Ada?Hello Ada, 36 is a fine age!" {
		t.Errorf("%q, %v", said, err)
	}
	if closed, err := s.Close(ctx, ""); err != nil || closed.Reason != session.Completed {
		t.Errorf("closed: %v, %v", closed, err)
	}
}

func echo(t *testing.T, address string, opts []session.OpenOption) {
	ctx := within(t)
	s, err := clientOf(t, address).Open(ctx, "echo", opts...)
	if err != nil {
		t.Fatal(err)
	}
	for _, number := range []uint64{0, 1<<53 + 1, 1<<64 - 1} {
		if err := s.Send(ctx, "say", number); err != nil {
			t.Fatal(err)
		}
		command, err := s.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var got uint64
		if err := command.Decode(&got); err != nil || got != number {
			t.Errorf("%d came back as %d, %v", number, got, err)
		}
	}
	for _, data := range [][]byte{{}, []byte("\x00\xff"), make([]byte, 1_000_000)} {
		if err := s.Send(ctx, "say", data); err != nil {
			t.Fatal(err)
		}
		command, err := s.Receive(ctx)
		if got, ok := command.Spec.([]byte); err != nil || !ok || !slices.Equal(got, data) {
			t.Errorf("%d bytes came back as %T of %d, %v", len(data), command.Spec, len(got), err)
		}
	}
	if closed, err := s.Close(ctx, "enough"); err != nil || closed.Reason != session.ByClient {
		t.Errorf("closed: %v, %v", closed, err)
	}
}

func climate(t *testing.T, address string) {
	ctx := within(t)
	s, err := clientOf(t, address).Open(ctx, "typed")
	if err != nil {
		t.Fatal(err)
	}
	for _, celsius := range []float64{20, 22} {
		if err := s.Send(ctx, "reading", &climatepb.Reading{Sensor: "attic", Celsius: celsius}); err != nil {
			t.Fatal(err)
		}
	}
	var last *climatepb.Summary
	for range 2 {
		command, err := s.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		last, _ = command.Spec.(*climatepb.Summary)
	}
	if last.GetMean() != 21 || last.GetCount() != 2 {
		t.Errorf("got %v", last)
	}
	if _, err := s.CloseNow(ctx, ""); err != nil {
		t.Error(err)
	}
}

func handOver(t *testing.T, address string) {
	ctx := within(t)
	first, err := clientOf(t, address).Open(ctx, "echo")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		mustSend(t, first, n)
	}
	mustReceive(t, first)
	position, err := first.Detach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	second, err := clientOf(t, address).Resume(ctx, position)
	if err != nil {
		t.Fatal(err)
	}
	third, err := clientOf(t, address).Resume(ctx, position) // the newest wins
	if err != nil {
		t.Fatal(err)
	}
	if _, err := numbers(ctx, second); !errors.Is(err, session.ErrTakenOver) {
		t.Errorf("the older one: %v", err)
	}
	if _, err := third.Close(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if got, err := numbers(ctx, third); err != nil || !slices.Equal(got, []int{1, 2}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func cuts(t *testing.T, address string) {
	const total, each = 3000, 100
	ctx := within(t)
	relay := relayTo(t, address)
	s, err := clientOf(t, relay.address()).Open(ctx, "echo")
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for n := range total {
			if n%each == each-1 {
				relay.cut()
			}
			if err := s.Send(ctx, "say", n); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for n := range total {
		var got int
		command, err := s.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Decode(&got); err != nil || got != n {
			t.Fatalf("got %d instead of %d, %v", got, n, err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Close(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if got, err := numbers(ctx, s); err != nil || len(got) > 0 {
		t.Errorf("left over: %v, %v", got, err)
	}
}

// relay hands connections through until it cuts them.
type relay struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	conns   []net.Conn
	stalled bool // what connects from now on gets nowhere
}

func relayTo(t *testing.T, target string) *relay {
	t.Helper()
	return relayUpTo(t, target, math.MaxInt64)
}

// relayUpTo makes a relay whose connections take so many bytes upwards.
func relayUpTo(t *testing.T, target string, most int64) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: listener, target: target}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			down, err := listener.Accept()
			if err != nil {
				return
			}
			if r.isStalled() {
				r.keep(down)
				continue
			}
			up, err := net.Dial("tcp", target)
			if err != nil {
				_ = down.Close()
				continue
			}
			r.keep(down, up)
			running.Go(func() { pipe(up, down, most) })
			running.Go(func() { pipe(down, up, math.MaxInt64) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		r.cut()
		running.Wait()
	})
	return r
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) keep(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, conns...)
}

func (r *relay) isStalled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stalled
}

// stall cuts, and lets nothing through any more.
func (r *relay) stall() {
	r.mu.Lock()
	r.stalled = true
	r.mu.Unlock()
	r.cut()
}

// cut resets all connections: what is under way is lost, in one direction or both.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		if tcp, ok := conn.(*net.TCPConn); ok && rand.IntN(2) == 0 {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
	r.conns = nil
}

func pipe(to, from net.Conn, most int64) {
	_, _ = io.CopyN(to, from, most) // whichever fails, both are over
	_ = to.Close()
	_ = from.Close()
}
