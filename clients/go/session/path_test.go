package session_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/session-service/session-service/clients/go/internal/servertest"
	"github.com/session-service/session-service/clients/go/session"
	pb "github.com/session-service/session-service/clients/go/sessionpb"
)

var cut = status.Error(codes.Unavailable, "a cut")

// cutAfter attaches, having taken over so many events, and breaks after a time, whatever comes.
func cutAfter(d time.Duration, received uint64, commands ...*pb.Command) script {
	return func(c *call) error {
		if err := c.attach(received, commands...); err != nil {
			return err
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			_ = c.readAll() // it ends with the call
		}()
		select {
		case <-time.After(d):
		case <-read:
		}
		return cut
	}
}

func hasEvents(r *pb.AttachRequest) bool { return len(r.Events) > 0 }

func mustPoison(t *testing.T, err error) *session.PoisonedEventError {
	t.Helper()
	var poisoned *session.PoisonedEventError
	if !errors.As(err, &poisoned) {
		t.Fatalf("got %v, no poisoned event", err)
	}
	return poisoned
}

func TestAnEventThatThePathNeverLetsThroughIsNamed(t *testing.T) {
	ends := map[string]error{
		"a reset":          cut,
		"gRPC's own limit": status.Error(codes.ResourceExhausted, "Received message larger than max"),
	}
	bubble(t, ends, func(t *testing.T, end error) {
		breaks := func(c *call) error {
			if err := c.attach(1); err != nil {
				return err
			}
			if _, err := c.readUntil(hasEvents); err != nil {
				return err
			}
			return end
		}
		takesOne := func(c *call) error {
			if err := c.attach(0); err != nil {
				return err
			}
			if _, err := c.readUntil(hasEvents); err != nil {
				return err
			}
			if err := c.write(&pb.AttachResponse{Ack: 1}); err != nil {
				return err
			}
			if _, err := c.readUntil(hasEvents); err != nil {
				return err
			}
			return end
		}
		f := serve(t, append([]script{takesOne}, slices.Repeat([]script{breaks}, 20)...)...)
		s := mustOpen(t, f.client())
		mustSend(t, s, "small")
		for s.TakenOver() == 0 {
			synctest.Wait()
		}
		mustSend(t, s, make([]byte, 1000))
		mustSend(t, s, "small")
		_, err := numbers(t.Context(), s)
		poisoned := mustPoison(t, err)
		if poisoned.Sequence != 2 || poisoned.Size < 1000 || poisoned.Size > 1100 {
			t.Errorf("got %+v", poisoned)
		}
		if lost := mustLose(t, err); lost.TakenOver != 1 {
			t.Errorf("taken over: %d", lost.TakenOver)
		}
		if status.Code(err) != status.Code(end) {
			t.Errorf("the status is %v", status.Code(err))
		}
		calls := f.all()
		if len(calls) != 5 {
			t.Fatalf("%d streams", len(calls))
		}
		if _, at := calls[3].log(); at[len(at)-1] < 5*time.Second {
			t.Errorf("on the fourth stream it was not held back: %v", at)
		}
	})
}

func TestAPoisonedEventAmongOthersIsFoundAndTheOthersArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var received uint64
		filter := func(c *call) error {
			if err := c.attach(received); err != nil {
				return err
			}
			for {
				request, err := c.readUntil(hasEvents)
				if err != nil {
					return err
				}
				for _, event := range request.Events {
					if event.Event == "POISON" {
						return cut
					}
				}
				received += uint64(len(request.Events))
				if err := c.write(&pb.AttachResponse{Ack: received}); err != nil {
					return err
				}
			}
		}
		f := serve(t, slices.Repeat([]script{filter}, 30)...)
		s := mustOpen(t, f.client())
		for _, name := range []string{"first", "second", "third", "POISON", "behind"} {
			if err := s.Send(t.Context(), name, nil); err != nil {
				t.Fatal(err)
			}
		}
		_, err := numbers(t.Context(), s)
		if poisoned := mustPoison(t, err); poisoned.Sequence != 4 {
			t.Errorf("got %+v", poisoned)
		}
		if lost := mustLose(t, err); lost.TakenOver != 3 {
			t.Errorf("taken over: %d", lost.TakenOver)
		}
	})
}

func TestAPathThatCutsAfter50MillisecondsIsNotTriedWithoutAPauseAndNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, slices.Repeat([]script{cutAfter(50*time.Millisecond, 0)}, 1000)...)
		s := mustOpen(t, f.client())
		mustSend(t, s, 1)
		began := time.Now()
		_, err := numbers(t.Context(), s)
		mustLose(t, err)
		if poisoned := (*session.PoisonedEventError)(nil); errors.As(err, &poisoned) {
			t.Errorf("it is the path, not %v", poisoned)
		}
		if took := time.Since(began); took > 2*time.Minute || took < 2*time.Minute-10*time.Second {
			t.Errorf("patient for %v", took)
		}
		if n := len(f.all()); n > 100 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestAnIdleSessionWhoseStreamIsCutAgainAndAgainIsNotLost(t *testing.T) {
	for name, after := range map[string]time.Duration{"each 20 s": 20 * time.Second, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cuts := slices.Repeat([]script{cutAfter(after, 0)}, 100)
				began := time.Now()
				mustTalk(t, serve(t, append(cuts, ends)...))
				if took := time.Since(began); took < 4*time.Minute {
					t.Errorf("100 cuts in %v: there was no pause", took)
				}
			})
		})
	}
}

func TestABusySessionWhoseStreamIsCutEachSecondGoesOnWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var scripts []script
		for n := range 20 {
			scripts = append(scripts, cutAfter(time.Second, 0, command(n+1)))
		}
		f := serve(t, append(scripts, func(c *call) error {
			if err := c.attach(1); err != nil {
				return err
			}
			return c.end(21)
		})...)
		s := mustOpen(t, f.client())
		mustSend(t, s, 1) // which the app does not take meanwhile
		began := time.Now()
		if got, err := numbers(t.Context(), s); err != nil || len(got) != 20 {
			t.Fatalf("got %v, %v", got, err)
		}
		if took := time.Since(began); took > 25*time.Second {
			t.Errorf("20 seconds of life took %v", took)
		}
	})
}

func TestAServerThatStallsIsNoPoisonedEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick := limits()
		quick.HeartbeatInterval = durationpb.New(time.Second)
		stalls := func(c *call) error {
			if err := c.attachWith(quick, 0); err != nil {
				return err
			}
			return c.readAll()
		}
		f := serve(t, append(slices.Repeat([]script{stalls}, 12), func(c *call) error {
			if err := c.attach(1); err != nil {
				return err
			}
			return c.end(1)
		})...)
		s := mustOpen(t, f.client())
		mustSend(t, s, 1)
		if _, err := numbers(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCredentialsThatAreNeverGoodAfterTheAttachmentAreNotTriedWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := attached(refusal(codes.Unauthenticated, "UNAUTHENTICATED", "RESUME"))
		began := time.Now()
		mustTalk(t, serve(t, append(slices.Repeat([]script{bad}, 50), ends)...))
		if took := time.Since(began); took < time.Minute {
			t.Errorf("50 times in %v", took)
		}
	})
}

func TestOnARealPath(t *testing.T) {
	address := servertest.Start(t)
	t.Run("a size that never passes is named", func(t *testing.T) {
		ctx := within(t)
		relay := relayUpTo(t, address, 1_000_000) // as nginx has it
		s, err := clientOf(t, relay.address()).Open(ctx, "echo")
		if err != nil {
			t.Fatal(err)
		}
		mustSend(t, s, "small")
		mustReceive(t, s)
		mustSend(t, s, make([]byte, 1_500_000))
		_, err = numbers(ctx, s)
		if poisoned := mustPoison(t, err); poisoned.Sequence != 2 || poisoned.Size < 1_500_000 {
			t.Errorf("got %+v", poisoned)
		}
		if err := s.Send(ctx, "say", 1); mustPoison(t, err).Sequence != 2 {
			t.Errorf("send: %v", err)
		}
	})
	t.Run("an idle session that is cut again and again is not lost", func(t *testing.T) {
		ctx := within(t)
		relay := relayTo(t, address)
		resumed := make(chan struct{}, 1000)
		policy := session.RetryPolicy{Initial: time.Millisecond, Maximum: 20 * time.Millisecond, Total: 300 * time.Millisecond}
		s, err := clientOf(t, relay.address(), session.WithRetryPolicy(policy), session.WithOnAttachment(func(a session.Attachment) {
			if a.State == session.Resumed {
				resumed <- struct{}{}
			}
		})).Open(ctx, "echo")
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			relay.cut()
			<-resumed
		}
		mustSend(t, s, 1)
		mustReceive(t, s)
		if _, err := s.CloseNow(ctx, ""); err != nil {
			t.Error(err)
		}
	})
	t.Run("a path that stalls is left, and the session is lost when patience is over", func(t *testing.T) {
		ctx := within(t)
		relay := relayTo(t, address)
		policy := session.RetryPolicy{Maximum: 20 * time.Millisecond, Total: 2 * time.Second, AttachTimeout: 200 * time.Millisecond}
		s, err := clientOf(t, relay.address(), session.WithRetryPolicy(policy)).Open(ctx, "echo")
		if err != nil {
			t.Fatal(err)
		}
		relay.stall()
		mustSend(t, s, 1)
		_, err = numbers(ctx, s)
		mustLose(t, err)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
