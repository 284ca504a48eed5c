package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/session-service/session-service/clients/go/session"
	pb "github.com/session-service/session-service/clients/go/sessionpb"
)

func mustOpen(t *testing.T, client *session.Client, opts ...session.OpenOption) *session.Session {
	t.Helper()
	s, err := client.Open(t.Context(), "app", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSend(t *testing.T, s *session.Session, data any) {
	t.Helper()
	if err := s.Send(t.Context(), "e", data); err != nil {
		t.Fatal(err)
	}
}

func mustReceive(t *testing.T, s *session.Session) session.Command {
	t.Helper()
	command, err := s.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return command
}

// soon is a context that ends when all else has come to rest.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// reads is a call that attaches and then only listens.
func reads(commands ...*pb.Command) script {
	return func(c *call) error {
		if err := c.attach(0, commands...); err != nil {
			return err
		}
		return c.readAll()
	}
}

// acks returns the acks that came, and when.
func acks(c *call) string {
	requests, at := c.log()
	var texts []string
	for n, request := range requests {
		if request.Ack > 0 {
			texts = append(texts, fmt.Sprintf("%d at %v", request.Ack, at[n]))
		}
	}
	return strings.Join(texts, ", ")
}

func TestACommandIsAcknowledgedWhenTheNextIsAskedForAndAlone20msLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, reads(command(1), command(2), command(3)))
		s := mustOpen(t, f.client())
		mustReceive(t, s)
		time.Sleep(time.Second)
		if got := acks(f.all()[0]); got != "" {
			t.Errorf("acknowledged what the application works on: %s", got)
		}
		mustReceive(t, s)
		time.Sleep(10 * time.Millisecond)
		mustReceive(t, s)
		time.Sleep(time.Second)
		if got := acks(f.all()[0]); got != "2 at 1.02s" {
			t.Errorf("got %s", got)
		}
	})
}

func TestAnAckGoesAtOnceAtAQuarterOfTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := limits()
		small.CommandWindow.Messages = 8
		f := serve(t, func(c *call) error {
			if err := c.attachWith(small, 0, numbered(1, 8).Commands...); err != nil {
				return err
			}
			return c.readAll()
		})
		s := mustOpen(t, f.client())
		for range 5 {
			mustReceive(t, s)
			synctest.Wait()
		}
		if got := acks(f.all()[0]); got != "2 at 0s, 4 at 0s" {
			t.Errorf("got %s", got)
		}
	})
}

func TestAnAckRidesOnAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, reads(command(1), command(2)))
		s := mustOpen(t, f.client())
		mustReceive(t, s)
		mustReceive(t, s)
		time.Sleep(5 * time.Millisecond)
		mustSend(t, s, 1)
		time.Sleep(time.Second)
		if got := acks(f.all()[0]); got != "1 at 5ms" {
			t.Errorf("got %s", got)
		}
	})
}

func TestSendWaitsWhileTheWindowIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := limits()
		small.EventWindow.Messages = 2
		room := make(chan struct{})
		f := serve(t, func(c *call) error {
			if err := c.attachWith(small, 0); err != nil {
				return err
			}
			<-room
			if err := c.write(&pb.AttachResponse{Ack: 1}); err != nil {
				return err
			}
			return c.readAll()
		})
		s := mustOpen(t, f.client())
		mustSend(t, s, 1)
		mustSend(t, s, 2)
		if err := s.Send(soon(t), "e", 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if s.Position().Sent != 2 {
			t.Errorf("sent %d", s.Position().Sent)
		}
		sent := make(chan error)
		go func() { sent <- s.Send(t.Context(), "e", 4) }()
		synctest.Wait()
		close(room)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		requests, _ := f.all()[0].log()
		last := requests[len(requests)-1]
		if last.FirstSequence != 3 || len(last.Events) != 1 || last.Events[0].GetJson() != "4" {
			t.Errorf("got %v", last)
		}
	})
}

func TestLimitsThatAreAbsentAreTheDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := c.attachWith(nil, 0, command(1)); err != nil {
				return err
			}
			return c.readAll()
		})
		s := mustOpen(t, f.client())
		for n := range 1024 {
			mustSend(t, s, n)
		}
		if err := s.Send(soon(t), "e", 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWhatCannotBeCarriedIsRefusedAtTheCallAndUsesNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := limits()
		small.MaxMessageBytes = 5000
		f := serve(t, func(c *call) error {
			if err := c.attachWith(small, 0); err != nil {
				return err
			}
			return c.readAll()
		})
		s := mustOpen(t, f.client())
		for name, data := range map[string]any{
			"a NaN": math.NaN(), "an integer": json.Number("18446744073709551616"), "a large blob": make([]byte, 4000),
		} {
			var fault *session.PayloadError
			if err := s.Send(t.Context(), "e", data); !errors.As(err, &fault) || fault.Path != "data" {
				t.Errorf("%s: got %v", name, err)
			}
		}
		mustSend(t, s, "fine")
		if s.Position().Sent != 1 {
			t.Errorf("sent %d", s.Position().Sent)
		}
		_, err := f.client().Open(t.Context(), "app", session.WithParams(map[string]any{"n": 1 << 60}))
		if fault := (*session.PayloadError)(nil); !errors.As(err, &fault) || fault.Path != "params" {
			t.Errorf("params: got %v", err)
		}
		_, err = f.client().Open(t.Context(), "\xff")
		if fault := (*session.PayloadError)(nil); !errors.As(err, &fault) {
			t.Errorf("the name of the app: got %v", err)
		}
	})
}

func TestTheServerMayGrantMoreThanGRPCsDefault(t *testing.T) {
	const size = 8_000_000
	for name, opts := range map[string][]session.OpenOption{"resumable": nil, "plain": {session.Plain()}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				large := limits()
				large.MaxMessageBytes = 10_000_000
				blob := &pb.Command{Command: "c", Payload: &pb.Command_Blob{Blob: make([]byte, size)}}
				f := serveWith(t, []grpc.ServerOption{grpc.MaxRecvMsgSize(10_000_000)}, func(c *call) error {
					if err := c.attachWith(large, 0, blob); err != nil {
						return err
					}
					if _, err := c.readUntil(hasEvents); err != nil {
						return err
					}
					return c.end(2)
				})
				s := mustOpen(t, f.client(), opts...)
				if got := mustReceive(t, s).Spec.([]byte); len(got) != size {
					t.Errorf("got %d bytes", len(got))
				}
				mustSend(t, s, make([]byte, size))
				if _, err := numbers(t.Context(), s); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestALoopThatGoesOnAfterTheEndHasItsErrorEachTimeAndStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, serve(t, ends).client())
		if _, err := s.Close(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		before := runtime.NumGoroutine()
		for range 1000 {
			if err := s.Send(t.Context(), "e", 1); !errors.Is(err, session.ErrEnded) {
				t.Fatalf("send: %v", err)
			}
			if _, err := s.Receive(t.Context()); !errors.Is(err, io.EOF) {
				t.Fatalf("receive: %v", err)
			}
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines, before %d", after, before)
		}
	})
}

func TestAClosedClientLeavesNoGoroutine(t *testing.T) {
	// What is left in a bubble fails it, and what spins in one never lets its time go on.
	synctest.Test(t, func(t *testing.T) {
		hold := func(c *call) error { return c.readAll() }
		f := serveWith(t, carrying(2), slices.Repeat([]script{
			reads(), attached(cut), refused(cut), hold, attached(refusal(codes.Unauthenticated, "UNAUTHENTICATED", "RESUME")),
		}, 100)...)
		client := f.client()
		for range 20 {
			go func() {
				s, err := client.Open(t.Context(), "app")
				if err == nil {
					_ = s.Send(t.Context(), "e", 1) // it has ended, or not
					_, _ = s.Receive(t.Context())
				}
			}()
		}
		time.Sleep(30 * time.Second)
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseGoesBehindTheEventsAndAcknowledgesWhateverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := c.attach(0, command(1), command(2)); err != nil {
				return err
			}
			request, err := c.readUntil(func(r *pb.AttachRequest) bool { return r.GetClose() != nil })
			if err != nil {
				return err
			}
			if len(request.Events) != 1 || request.Ack != 2 || request.GetClose().Reason != "enough" {
				return status.Errorf(codes.InvalidArgument, "closed with %v", request)
			}
			if err := c.write(numbered(3, 3)); err != nil {
				return err
			}
			if _, err := c.readUntil(func(r *pb.AttachRequest) bool { return r.Ack == 3 }); err != nil {
				return err
			}
			return c.end(4)
		})
		s := mustOpen(t, f.client())
		mustReceive(t, s)
		mustSend(t, s, 1)
		closed, err := s.Close(t.Context(), "enough")
		if err != nil || closed.Reason != session.Completed {
			t.Fatalf("got %v, %v", closed, err)
		}
		if got, err := numbers(t.Context(), s); err != nil || !slices.Equal(got, []int{2, 3}) {
			t.Errorf("what came meanwhile: %v, %v", got, err)
		}
		if err := s.Send(t.Context(), "e", 1); !errors.Is(err, session.ErrEnded) {
			t.Errorf("send: %v", err)
		}
		if again, err := s.Close(t.Context(), ""); err != nil || again != closed {
			t.Errorf("close: %v, %v", again, err)
		}
	})
}

func TestCloseNowAfterAGracefulCloseThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := c.attach(0); err != nil {
				return err
			}
			if _, err := c.readUntil(func(r *pb.AttachRequest) bool { return r.GetClose().GetNow() }); err != nil {
				return err
			}
			return c.end(1)
		})
		s := mustOpen(t, f.client())
		if _, err := s.Close(soon(t), ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if _, err := s.CloseNow(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	})
}

func TestClosedIsAcknowledgedBeforeTheClientHalfCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, ends)
		s := mustOpen(t, f.client())
		if _, err := s.Receive(t.Context()); !errors.Is(err, io.EOF) {
			t.Fatalf("got %v", err)
		}
		closed, ok := s.Closed()
		if !ok || closed.Reason.String() != "COMPLETED" {
			t.Errorf("closed: %v, %v", closed, ok)
		}
		synctest.Wait()
		requests, at := f.all()[0].log()
		if last := len(requests) - 1; requests[last].Ack != 1 || at[last] != 0 {
			t.Errorf("got %v at %v", requests, at)
		}
		if s.Attached() {
			t.Error("is still attached")
		}
	})
}

func TestALoopThatWasLeftGoesOnBehindTheCommandItWasLeftAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := c.attach(0, numbered(1, 4).Commands...); err != nil {
				return err
			}
			return c.end(5)
		})
		s := mustOpen(t, f.client())
		for command := range s.Commands(t.Context()) {
			if string(command.Spec.(json.RawMessage)) == "2" {
				break
			}
		}
		if s.Err() != nil || s.Position().Received != 2 {
			t.Errorf("left with %v at %v", s.Err(), s.Position())
		}
		if got, err := numbers(t.Context(), s); err != nil || !slices.Equal(got, []int{3, 4}) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestAContextEndsTheCallAndNotTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		f := serve(t, func(c *call) error {
			if err := c.attach(0); err != nil {
				return err
			}
			<-answer
			if err := c.write(numbered(1, 1)); err != nil {
				return err
			}
			return c.end(2)
		})
		opening, cancel := context.WithCancel(t.Context())
		s, err := f.client().Open(opening, "app")
		if err != nil {
			t.Fatal(err)
		}
		cancel() // it was that of the opening alone
		if _, err := numbers(soon(t), s); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		close(answer)
		if got, err := numbers(t.Context(), s); err != nil || !slices.Equal(got, []int{1}) {
			t.Errorf("got %v, %v", got, err)
		}
		if _, err := s.Receive(opening); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that is done: %v", err)
		}
		if err := s.Send(opening, "e", 1); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that is done: %v", err)
		}
	})
}

func TestAnOpenThatIsCancelledLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble fails where a goroutine is left
		f := serve(t, (*call).readAll)
		if _, err := f.client().Open(soon(t), "app"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOnlyOneGoroutineCanWaitForCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, serve(t, reads()).client())
		waits := make(chan error)
		go func() {
			_, err := s.Receive(soon(t))
			waits <- err
		}()
		synctest.Wait()
		if _, err := s.Receive(t.Context()); err == nil || !strings.Contains(err.Error(), "only one") {
			t.Errorf("got %v", err)
		}
		if err := <-waits; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first: %v", err)
		}
	})
}

func TestDetachWaitsUntilEveryEventIsTakenOverAndAnotherGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t,
			func(c *call) error {
				if err := c.attach(0, command(1), command(2)); err != nil {
					return err
				}
				if _, err := c.readUntil(func(r *pb.AttachRequest) bool { return len(r.Events) > 0 }); err != nil {
					return err
				}
				time.Sleep(time.Minute)
				if err := c.write(&pb.AttachResponse{Ack: 1}); err != nil {
					return err
				}
				return c.readAll()
			},
			func(c *call) error {
				if err := c.attach(5); err != nil {
					return err
				}
				return c.readAll()
			},
		)
		client := f.client()
		s := mustOpen(t, client)
		mustReceive(t, s)
		mustSend(t, s, 1)
		if _, err := s.Detach(soon(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		position, err := s.Detach(t.Context())
		if err != nil || position != (session.Position{SessionID: "s-1", Token: "token", Received: 1, Sent: 1}) {
			t.Fatalf("got %v, %v", position, err)
		}
		if _, err := s.Receive(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("receive: %v", err)
		}
		if err := s.Send(t.Context(), "e", 1); !errors.Is(err, session.ErrEnded) {
			t.Errorf("send: %v", err)
		}
		if _, err := s.Close(t.Context(), ""); !errors.Is(err, session.ErrEnded) {
			t.Errorf("close: %v", err)
		}
		if again, err := s.Detach(t.Context()); err != nil || again != position {
			t.Errorf("detach: %v, %v", again, err)
		}

		saved, err := json.Marshal(position)
		if err != nil {
			t.Fatal(err)
		}
		var read session.Position
		if err := json.Unmarshal(saved, &read); err != nil {
			t.Fatal(err)
		}
		other, err := client.Resume(t.Context(), read)
		if err != nil {
			t.Fatal(err)
		}
		if other.TakenOver() != 5 || other.Position().Sent != 5 {
			t.Errorf("goes on from %d", other.TakenOver())
		}
		mustSend(t, other, 6)
		synctest.Wait()
		if request := f.all()[1].request(1); request.FirstSequence != 6 {
			t.Errorf("got %v", request)
		}
		resume := f.all()[1].request(0).GetResume()
		if resume.Received != 1 || resume.ClientId == f.all()[0].request(0).GetOpen().ClientId {
			t.Errorf("resumed with %v", resume)
		}
	})
}

func TestDetachEndsTheWaitsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, serve(t, reads()).client())
		received := make(chan error)
		go func() {
			_, err := numbers(t.Context(), s)
			received <- err
		}()
		synctest.Wait()
		if _, err := s.Detach(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-received; err != nil {
			t.Errorf("got %v", err)
		}
	})
}

func TestAPositionDoesNotShowItsToken(t *testing.T) {
	position := session.Position{SessionID: "s-1", Token: "secret", Received: 1, Sent: 2}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, position); strings.Contains(text, "secret") || !strings.Contains(text, "s-1") {
			t.Errorf("%s shows %s", format, text)
		}
	}
}

func TestClosingTheClientLeavesItsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := serve(t, reads()).client()
		s := mustOpen(t, client)
		received := make(chan error)
		go func() {
			_, err := s.Receive(t.Context())
			received <- err
		}()
		synctest.Wait()
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-received; !errors.Is(err, session.ErrEnded) {
			t.Errorf("receive: %v", err)
		}
		if _, err := s.Close(t.Context(), ""); !errors.Is(err, session.ErrEnded) {
			t.Errorf("close: %v", err)
		}
		if _, err := client.Open(t.Context(), "app"); !errors.Is(err, session.ErrEnded) {
			t.Errorf("open: %v", err)
		}
	})
}

func TestTheServerHearsWhatTheOpenAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, ends)
		client := f.client(session.WithCommandWindow(7, 0))
		s := mustOpen(t, client, session.WithParams(map[string]any{"n": 1}), session.WithHeaders(map[string]string{"a": "b"}),
			session.WithResumeWindow(90*time.Second), session.WithRequestID("0123456789abcdef"))
		if _, err := numbers(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		open := f.all()[0].request(0).GetOpen()
		if open.App != "app" || !open.Resumable || open.Params.Fields["n"].GetNumberValue() != 1 ||
			open.Headers["a"] != "b" || open.ResumeWindow.AsDuration() != 90*time.Second ||
			open.RequestId != "0123456789abcdef" || open.CommandWindow.Messages != 7 ||
			open.CommandFormat != pb.PayloadFormat_PAYLOAD_FORMAT_JSON {
			t.Errorf("got %v", open)
		}
	})
}

func TestAServerThatShutsDownIsSeenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := c.attach(0); err != nil {
				return err
			}
			if err := c.write(&pb.AttachResponse{Control: &pb.AttachResponse_Draining{Draining: &pb.Draining{}}}); err != nil {
				return err
			}
			return c.readAll()
		})
		s := mustOpen(t, f.client())
		synctest.Wait()
		if !s.Draining() || !s.Attached() || s.ID() != "s-1" {
			t.Errorf("draining %v, attached %v, id %q", s.Draining(), s.Attached(), s.ID())
		}
	})
}

// --- plain sessions ---

func TestAPlainSessionKeepsNoBooksAndEndsWithItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := c.attach(0, command(1)); err != nil {
				return err
			}
			if _, err := c.readUntil(func(r *pb.AttachRequest) bool { return len(r.Events) > 0 }); err != nil {
				return err
			}
			if err := c.write(&pb.AttachResponse{Commands: []*pb.Command{command(2)}}); err != nil {
				return err
			}
			err := c.write(&pb.AttachResponse{Control: &pb.AttachResponse_Closed{
				Closed: &pb.Closed{Reason: pb.CloseReason_CLOSE_REASON_FAILED, Message: "error 1"},
			}})
			if err != nil {
				return err
			}
			return c.readAll() // the client half-closes (E2)
		})
		began := time.Now()
		s := mustOpen(t, f.client(), session.Plain())
		mustReceive(t, s)
		mustSend(t, s, 1)
		if got, err := numbers(t.Context(), s); err != nil || !slices.Equal(got, []int{2}) {
			t.Errorf("got %v, %v", got, err)
		}
		if _, err := s.Close(t.Context(), ""); err != nil || time.Since(began) > 0 {
			t.Errorf("it took %v until the call ended: %v", time.Since(began), err)
		}
		if closed, _ := s.Closed(); closed != (session.Closed{Reason: session.Failed, Message: "error 1"}) {
			t.Errorf("closed: %v", closed)
		}
		requests, _ := f.all()[0].log()
		open := requests[0].GetOpen()
		if open.Resumable || open.RequestId != "" || open.ClientId != "" || open.CommandWindow != nil {
			t.Errorf("opened with %v", open)
		}
		for _, request := range requests {
			if request.Ack != 0 || request.FirstSequence != 0 {
				t.Errorf("got %v", request)
			}
		}
	})
}

func TestAPlainSessionThatBreaksIsLostAndOneThatIsRefusedSaysWhy(t *testing.T) {
	for name, test := range map[string]struct {
		scripts []script
		lost    bool
	}{
		"broken":                   {[]script{attached(status.Error(codes.Unavailable, "a cut"))}, true},
		"reopen when it is open":   {[]script{attached(refusal(codes.Unavailable, "DRAINING", "REOPEN"))}, true},
		"no answer: it may run":    {[]script{refused(nil)}, true},
		"refused":                  {[]script{attached(refusal(codes.InvalidArgument, "PAYLOAD_INVALID", "NEVER"))}, false},
		"refused for now, at last": {[]script{refused(refusal(codes.Unavailable, "DRAINING", "REOPEN")), attached(status.Error(codes.NotFound, ""))}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := serve(t, append(test.scripts, ends)...)
				s, err := f.client().Open(t.Context(), "app", session.Plain())
				if err == nil {
					_, err = numbers(t.Context(), s)
				}
				if test.lost {
					mustLose(t, err)
				} else {
					mustRefuse(t, err)
				}
				if got := len(f.all()); got != len(test.scripts) {
					t.Errorf("%d calls", got)
				}
			})
		})
	}
}

func TestThePeerOfAPlainSessionIsHeldBackWhileTheApplicationIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 3000
		var written atomic.Int32
		f := serve(t, func(c *call) error {
			if err := c.attach(0); err != nil {
				return err
			}
			for n := range total {
				response := &pb.AttachResponse{Commands: []*pb.Command{command(n)}}
				response.Commands[0].TaskId = strings.Repeat("x", 10_000)
				if err := c.write(response); err != nil {
					return err
				}
				written.Add(1)
			}
			return c.write(&pb.AttachResponse{Control: &pb.AttachResponse_Closed{Closed: &pb.Closed{}}})
		})
		s := mustOpen(t, f.client(), session.Plain())
		time.Sleep(time.Hour) // longer than three intervals: it is we who do not listen
		if n := written.Load(); n > 500 {
			t.Errorf("%d commands of 10 kB have been written, although none was taken", n)
		}
		got, err := numbers(t.Context(), s)
		if err != nil || len(got) != total || !slices.IsSorted(got) {
			t.Errorf("got %d commands, %v", len(got), err)
		}
	})
}

func TestAPlainSessionCannotBeDetachedAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, serve(t, reads(command(1))).client(), session.Plain())
		if _, err := s.Detach(t.Context()); err == nil || !strings.Contains(err.Error(), "plain") {
			t.Errorf("got %v", err)
		}
		mustReceive(t, s)
	})
}
