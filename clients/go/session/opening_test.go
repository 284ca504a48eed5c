package session_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/session-service/session-service/clients/go/internal/servertest"
	"github.com/session-service/session-service/clients/go/session"
	pb "github.com/session-service/session-service/clients/go/sessionpb"
)

func closesNow(r *pb.AttachRequest) bool { return r.GetClose().GetNow() }

// givenUp is a call that never answers, and hears that the open was given up (A6).
func givenUp(c *call) error {
	if _, err := c.read(); err != nil {
		return err
	}
	next, err := c.read()
	if err != nil || !closesNow(next) {
		return status.Errorf(codes.InvalidArgument, "next came %v, %v", next, err)
	}
	if _, err := c.read(); !errors.Is(err, io.EOF) {
		return status.Errorf(codes.InvalidArgument, "not half-closed, but %v", err)
	}
	return nil
}

// mustHear checks the last call of a fake, which is an open that was given up.
func mustHear(t *testing.T, f *fake) {
	t.Helper()
	calls := f.all()
	if requests, _ := calls[len(calls)-1].log(); len(requests) != 2 || !closesNow(requests[1]) {
		t.Errorf("it heard %v", requests)
	}
}

func TestAnOpenThatIsGivenUpIsClosedOnItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, givenUp)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		if _, err := f.client().Open(ctx, "app"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("the caller waited %v", took)
		}
		synctest.Wait()
		mustBegin(t, f, "open")
		mustHear(t, f)
	})
}

func TestAnOpenThatIsGivenUpAfterItsStreamBrokeIsRepeatedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, refused(cut), givenUp)
		slow := session.WithRetryPolicy(session.RetryPolicy{Initial: 50 * time.Second, Maximum: 50 * time.Second})
		if _, err := f.client(slow).Open(soon(t), "app"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(5 * time.Second)
		mustBegin(t, f, "open", "open")
		mustHear(t, f)
		calls := f.all()
		first, last := calls[0].request(0).GetOpen(), calls[len(calls)-1].request(0).GetOpen()
		if first.GetRequestId() != last.GetRequestId() {
			t.Errorf("opened %v, then %v", first, last)
		}
	})
}

func TestAnOpenThatIsGivenUpWhileItsStreamBreaksIsRepeatedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		breaks := func(c *call) error {
			_, err := c.readUntil(closesNow)
			return errors.Join(err, cut)
		}
		f := serve(t, breaks, breaks, ends)
		if _, err := f.client().Open(soon(t), "app"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(5 * time.Second)
		mustBegin(t, f, "open", "open")
	})
}

func TestWithoutASessionThereIsNothingToClose(t *testing.T) {
	bubble(t, map[string]error{
		"refused for now": refusal(codes.ResourceExhausted, "SESSION_LIMIT", "REOPEN"),
		"ended with OK":   nil,
	}, func(t *testing.T, end error) {
		f := serve(t, func(c *call) error {
			_, err := c.readUntil(closesNow)
			return errors.Join(err, end)
		}, ends)
		if _, err := f.client().Open(soon(t), "app"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(5 * time.Second)
		mustBegin(t, f, "open")
	})
}

func TestAnOpenThatWasNeverWrittenIsNotWrittenToGiveItUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t)
		if err := f.listener.Close(); err != nil {
			t.Fatal(err)
		}
		client := f.client()
		if _, err := client.Open(soon(t), "app"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		began := time.Now()
		if err := client.Close(); err != nil || time.Since(began) > 0 {
			t.Errorf("closed in %v, %v", time.Since(began), err)
		}
	})
}

func TestClosingTheClientWaitsForSuchClosingsFiveSecondsAtMost(t *testing.T) {
	deaf := func(c *call) error {
		<-c.stream.Context().Done()
		return nil
	}
	bubble(t, map[string]bool{"it hears": true, "it does not": false}, func(t *testing.T, hears bool) {
		script := deaf
		if hears {
			script = givenUp
		}
		f := serve(t, script)
		client := f.client()
		if _, err := client.Open(soon(t), "app"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		began := time.Now()
		if err := client.Close(); err != nil || time.Since(began) > 5*time.Second || hears == (time.Since(began) > 0) {
			t.Errorf("closed in %v, %v", time.Since(began), err)
		}
		if hears {
			mustHear(t, f)
		}
	})
}

func TestClosingTheClientGivesItsOpensUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, givenUp)
		client := f.client()
		opened := make(chan error)
		go func() {
			_, err := client.Open(t.Context(), "app")
			opened <- err
		}()
		synctest.Wait()
		go func() { _ = client.Close() }() // the error is that of the connection, which has none
		if err := <-opened; !errors.Is(err, session.ErrEnded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		mustHear(t, f)
	})
}

func TestWhatIsSaidOfAnOpenThatWasGivenUpIsSaidToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := func(a session.Attachment) { t.Errorf("told of %v", a.State) }
		f := serve(t, func(c *call) error {
			if _, err := c.readUntil(closesNow); err != nil {
				return err
			}
			return c.write(&pb.AttachResponse{Control: &pb.AttachResponse_Opened{Opened: &pb.Opened{SessionId: "s-1"}}})
		})
		if _, err := f.client(session.WithOnAttachment(hook)).Open(soon(t), "app"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
	})
}

func TestAnOpenThatIsTooLateTellsHowTheLastTryEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last error
		f := serve(t, func(*call) error { return cut }, func(c *call) error { return c.readAll() })
		client := f.client(session.WithOnAttachment(func(a session.Attachment) { last = a.Err }))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := client.Open(ctx, "app")
		if !errors.Is(err, context.DeadlineExceeded) || last == nil || !errors.Is(err, last) || status.Code(err) != codes.Unavailable {
			t.Errorf("got %v after %v", err, last)
		}
	})
}

func TestOpensThatAreGivenUpLeaveNoAppRunning(t *testing.T) {
	const opens, atOnce = 300, 30
	admin := "unix:" + filepath.Join(t.TempDir(), "admin")
	address := servertest.Start(t, "--admin-listen", admin)
	ctx := within(t)
	conn, err := grpc.NewClient(admin, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sessions := pb.NewSessionAdminServiceClient(conn)
	watch, err := sessions.WatchSessions(ctx, &pb.WatchSessionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil { // from here on it misses nothing
		t.Fatal(err)
	}

	client := clientOf(t, address)
	var abandoned int
	var mu sync.Mutex
	var opening sync.WaitGroup
	for range atOnce {
		opening.Go(func() {
			for range opens / atOnce {
				moment, cancel := context.WithTimeout(ctx, rand.N(400*time.Millisecond))
				s, err := client.Open(moment, "echo")
				cancel()
				if err != nil {
					mu.Lock()
					abandoned++
					mu.Unlock()
				} else if _, err := s.CloseNow(ctx, ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	opening.Wait()
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d opens were given up", abandoned, opens)
	for {
		list, err := sessions.ListSessions(ctx, &pb.ListSessionsRequest{PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		running := 0
		for _, s := range list.Sessions {
			if s.State != pb.SessionState_SESSION_STATE_ENDED {
				running++
			}
		}
		if running == 0 {
			return
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatalf("%d apps still run: %v", running, err)
		}
	}
}
