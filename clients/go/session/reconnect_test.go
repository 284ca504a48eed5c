package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/session-service/session-service/clients/go/session"
	pb "github.com/session-service/session-service/clients/go/sessionpb"
)

// attached answers as a decent server does and then ends the call with an error, or OK for nil.
func attached(end error, commands ...*pb.Command) script {
	return func(c *call) error {
		if err := c.attach(0, commands...); err != nil {
			return err
		}
		return end
	}
}

// refused ends the call before it has answered.
func refused(end error) script {
	return func(c *call) error {
		if _, err := c.read(); err != nil {
			return err
		}
		return end
	}
}

// ends is a decent call that ends a session whose client has taken nothing yet.
func ends(c *call) error {
	if err := c.attach(0); err != nil {
		return err
	}
	return c.end(1)
}

// talk opens a session, takes all of its commands, and closes it.
func talk(t *testing.T, f *fake, opts ...session.Option) ([]int, error) {
	t.Helper()
	s, err := f.client(opts...).Open(t.Context(), "app")
	if err != nil {
		return nil, err
	}
	got, err := numbers(t.Context(), s)
	if err != nil {
		return got, err
	}
	_, err = s.Close(t.Context(), "")
	return got, err
}

func mustTalk(t *testing.T, f *fake, opts ...session.Option) {
	t.Helper()
	if _, err := talk(t, f, opts...); err != nil {
		t.Fatal(err)
	}
}

func mustBegin(t *testing.T, f *fake, want ...string) {
	t.Helper()
	if got := f.began(); !slices.Equal(got, want) {
		t.Errorf("the calls began with %v, not %v", got, want)
	}
}

func mustRefuse(t *testing.T, err error) *session.RefusedError {
	t.Helper()
	var refused *session.RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, no refusal", err)
	}
	return refused
}

func mustLose(t *testing.T, err error) *session.LostError {
	t.Helper()
	var lost *session.LostError
	if !errors.As(err, &lost) {
		t.Fatalf("got %v, no loss", err)
	}
	return lost
}

// bubble runs each case of a table in a time of its own.
func bubble[T any](t *testing.T, cases map[string]T, test func(t *testing.T, value T)) {
	for name, value := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, value) })
		})
	}
}

func byName(list ...codes.Code) map[string]codes.Code {
	named := map[string]codes.Code{}
	for _, code := range list {
		named[code.String()] = code
	}
	return named
}

var final = byName(codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition,
	codes.Unimplemented)

func TestAStreamThatEndsWithoutClosedIsResumedAndNothingIsLost(t *testing.T) {
	broken := byName(codes.OK, codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Aborted, codes.Internal,
		codes.Unavailable, codes.DataLoss, codes.OutOfRange, codes.AlreadyExists, codes.ResourceExhausted)
	bubble(t, broken, func(t *testing.T, code codes.Code) {
		f := serve(t,
			attached(status.Error(code, "says the fake"), command(1), command(2)),
			func(c *call) error {
				if err := c.attach(0, command(3)); err != nil {
					return err
				}
				return c.end(4)
			},
		)
		got, err := talk(t, f)
		if err != nil || !slices.Equal(got, []int{1, 2, 3}) {
			t.Fatalf("got %v, %v", got, err)
		}
		mustBegin(t, f, "open", "resume")
		resume, open := f.all()[1].request(0).GetResume(), f.all()[0].request(0).GetOpen()
		if resume.Received != 2 || resume.SessionId != "s-1" || resume.ResumeToken != "token" {
			t.Errorf("resumed with %v", resume)
		}
		if resume.ClientId != open.ClientId || len(resume.ClientId) != 36 {
			t.Errorf("client ids %q and %q", open.ClientId, resume.ClientId)
		}
	})
}

func TestSomeStatusesAreForGoodWithoutAnErrorInfo(t *testing.T) {
	bubble(t, final, func(t *testing.T, code codes.Code) {
		f := serve(t, attached(status.Error(code, "says the fake")))
		_, err := talk(t, f)
		if refused := mustRefuse(t, err); refused.Code != code || refused.Reason != "" || refused.Message != "says the fake" {
			t.Errorf("got %#v", refused)
		}
		if status.Code(err) != code {
			t.Errorf("the status of the error is %v", status.Code(err))
		}
		mustBegin(t, f, "open")
	})
}

func TestALimitOfGRPCsOwnIsForGoodBeforeThereIsASessionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := status.Error(codes.ResourceExhausted, "metadata size exceeds soft limit")
		_, err := talk(t, serve(t, refused(full), ends))
		if refused := mustRefuse(t, err); refused.Code != codes.ResourceExhausted {
			t.Errorf("got %v", refused)
		}
		mustTalk(t, serve(t, attached(full), refused(full), ends))
		resumed, err := serve(t, refused(full), ends).client().Resume(t.Context(), session.Position{SessionID: "s-1", Token: "t"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := numbers(t.Context(), resumed); err != nil {
			t.Error(err)
		}
	})
}

func TestResumeIsObeyedOverTheStatus(t *testing.T) {
	bubble(t, final, func(t *testing.T, code codes.Code) {
		f := serve(t, attached(refusal(code, "SOMETHING", "RESUME")), ends)
		mustTalk(t, f)
		mustBegin(t, f, "open", "resume")
	})
}

func TestNeverAndWhatItDoesNotKnowAreToldToTheApplication(t *testing.T) {
	retries := map[string]string{"never": "NEVER", "unknown": "PERHAPS", "none": ""}
	bubble(t, retries, func(t *testing.T, retry string) {
		f := serve(t, attached(refusal(codes.Unavailable, "SOMETHING", retry, "received", "3")))
		_, err := talk(t, f)
		refused := mustRefuse(t, err)
		if refused.Reason != "SOMETHING" || refused.TakenOver != 3 || errors.Is(err, session.ErrTakenOver) {
			t.Errorf("got %#v", refused)
		}
	})
}

func TestAnErrorInfoOfSomebodyElseDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, attached(refusalOf("elsewhere", codes.Unavailable, "SOMETHING", "NEVER")), ends)
		mustTalk(t, f)
	})
}

func TestNonsenseInTheMetadataIsNotBelieved(t *testing.T) {
	nonsense := map[string]string{"negative": "-1", "text": "many", "too large": "18446744073709551616"}
	bubble(t, nonsense, func(t *testing.T, received string) {
		f := serve(t, attached(refusal(codes.Aborted, "SOMETHING", "NEVER", "received", received)))
		_, err := talk(t, f)
		if refused := mustRefuse(t, err); refused.TakenOver != 0 {
			t.Errorf("taken over: %d", refused.TakenOver)
		}
	})
}

func TestReopenBeforeTheFirstOpenedOpensAgainWithTheSameIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, refused(refusal(codes.Unavailable, "DRAINING", "REOPEN")), refused(nil), ends)
		mustTalk(t, f)
		mustBegin(t, f, "open", "open", "open")
		calls := f.all()
		for _, c := range calls[1:] {
			if !proto.Equal(c.request(0), calls[0].request(0)) {
				t.Errorf("repeated as %v", c.request(0))
			}
		}
		if id := calls[0].request(0).GetOpen().RequestId; len(id) != 36 || id[14] != '4' {
			t.Errorf("request id %q", id)
		}
	})
}

func TestAnUnknownSessionBeforeTheFirstOpenedHasRunAndIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, refused(refusal(codes.NotFound, "SESSION_NOT_FOUND", "REOPEN")))
		_, err := talk(t, f)
		mustLose(t, err)
	})
}

func TestReopenAfterOpenedIsALostSessionAndNeverOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, attached(nil), refused(refusal(codes.OutOfRange, "RESUME_IMPOSSIBLE", "REOPEN", "received", "7")))
		_, err := talk(t, f)
		if lost := mustLose(t, err); lost.TakenOver != 7 {
			t.Errorf("taken over: %d", lost.TakenOver)
		}
		mustBegin(t, f, "open", "resume")
	})
}

func TestTakenOverByAnotherClientIsAnErrorOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, attached(refusal(codes.Aborted, "TAKEN_OVER", "NEVER")))
		_, err := talk(t, f)
		mustRefuse(t, err)
		if !errors.Is(err, session.ErrTakenOver) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTakenOverByALateStreamOfThisClientIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, attached(refusal(codes.Aborted, "TAKEN_OVER", "RESUME")), ends)
		mustTalk(t, f)
	})
}

func TestTheClientWaitsAsLongAsTheServerAsks(t *testing.T) {
	asks := func(d time.Duration) script {
		info := &errdetails.ErrorInfo{
			Domain: "session_service", Reason: "SESSION_LIMIT", Metadata: map[string]string{"retry": "REOPEN"},
		}
		return refused(withDetails(codes.ResourceExhausted, "full", info, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}))
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		mustTalk(t, serve(t, asks(7*time.Second), ends))
		if waited := time.Since(began); waited < 7*time.Second || waited > 8*time.Second {
			t.Errorf("waited %v", waited)
		}
		began = time.Now()
		_, err := talk(t, serve(t, asks(time.Hour)))
		mustLose(t, err)
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("knew that it is in vain, and waited %v", waited)
		}
	})
}

func TestUnauthenticatedIsTriedOnceMoreWithFreshCredentials(t *testing.T) {
	ends401 := map[string]error{
		"with an ErrorInfo": refusal(codes.Unauthenticated, "UNAUTHENTICATED", "RESUME"),
		"without":           status.Error(codes.Unauthenticated, "who are you?"),
	}
	bubble(t, ends401, func(t *testing.T, bad error) {
		asked := 0
		credentials := session.WithCredentials(func(context.Context) (metadata.MD, error) {
			asked++
			return metadata.Pairs("authorization", fmt.Sprintf("Bearer %d", asked)), nil
		})
		began := time.Now()
		f := serve(t, refused(bad), ends)
		mustTalk(t, f, credentials)
		if got := f.all()[1].metadata.Get("authorization"); !slices.Equal(got, []string{"Bearer 2"}) || time.Now() != began {
			t.Errorf("the second time: %v, after %v", got, time.Since(began))
		}

		_, err := talk(t, serve(t, refused(bad), refused(bad), ends), credentials)
		if refused := mustRefuse(t, err); refused.Code != codes.Unauthenticated {
			t.Errorf("got %v", refused)
		}

		mustTalk(t, serve(t, attached(bad), attached(bad), attached(bad), ends), credentials) // each is the first in a row
	})
}

func TestCredentialsThatFailEndTheSessionWithTheirError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault := errors.New("the vault is locked")
		_, err := talk(t, serve(t), session.WithCredentials(func(context.Context) (metadata.MD, error) { return nil, fault }))
		mustLose(t, err)
		if !errors.Is(err, fault) {
			t.Errorf("got %v", err)
		}
		_, err = talk(t, serve(t), session.WithCredentials(func(ctx context.Context) (metadata.MD, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		mustLose(t, err)
	})
}

func TestAnOpenIsRepeatedForAMinuteAndThenOfUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f := serve(t, slices.Repeat([]script{refused(status.Error(codes.Unavailable, "no"))}, 10_000)...)
		_, err := talk(t, f)
		if lost := mustLose(t, err); !strings.Contains(lost.Message, "not opened, as far as is known") {
			t.Errorf("got %v", lost)
		}
		if took := time.Since(began); took > time.Minute || took < 40*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestASessionThatIsNotReachedInTimeIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		no := refused(status.Error(codes.Unavailable, "no"))
		f := serve(t, append([]script{attached(nil)}, slices.Repeat([]script{no}, 10_000)...)...)
		policy := session.RetryPolicy{Initial: time.Second, Maximum: 2 * time.Second, Total: 5 * time.Minute}
		began := time.Now()
		_, err := talk(t, f, session.WithRetryPolicy(policy))
		mustLose(t, err)
		if took := time.Since(began); took > 5*time.Minute || took < 5*time.Minute-2*time.Second {
			t.Errorf("took %v", took)
		}
		if tries := len(f.all()); tries < 150 {
			t.Errorf("only %d tries of at most 2 s", tries)
		}
	})
}

func TestAnAttachThatNobodyAnswersIsGivenUpAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, (*call).readAll, ends)
		began := time.Now()
		mustTalk(t, f)
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("took %v", took)
		}
		mustBegin(t, f, "open", "open")
	})
}

// bad is a call that answers with these bytes, behind so many commands.
func bad(data []byte, after int) script {
	return func(c *call) error {
		var commands []*pb.Command
		for n := range after {
			commands = append(commands, command(n))
		}
		if err := c.attach(0, commands...); err != nil {
			return err
		}
		if err := c.writeBytes(data); err != nil {
			return err
		}
		return c.readAll()
	}
}

func encoded(response *pb.AttachResponse) []byte {
	data, err := proto.Marshal(response)
	if err != nil {
		panic(err)
	}
	return data
}

var badResponses = map[string][]byte{
	"a gap":               encoded(numbered(9, 9)),
	"no message":          {0xff, 0xff, 0xff, 0xff},
	"no JSON":             encoded(&pb.AttachResponse{FirstSequence: 1, Commands: []*pb.Command{{Payload: &pb.Command_Json{Json: "{"}}}}),
	"an ack of nothing":   encoded(&pb.AttachResponse{Ack: 1}),
	"a gap before closed": encoded(&pb.AttachResponse{Control: &pb.AttachResponse_Closed{Closed: &pb.Closed{Sequence: 7}}}),
}

func TestABadResponseBreaksTheStreamAndTheSecondAtOnePlaceIsFinal(t *testing.T) {
	bubble(t, badResponses, func(t *testing.T, data []byte) {
		f := serve(t, bad(data, 0), bad(data, 0), ends)
		_, err := talk(t, f)
		if refused := mustRefuse(t, err); !strings.Contains(refused.Message, "a bad response") {
			t.Errorf("got %v", refused)
		}
		mustBegin(t, f, "open", "resume")
	})
}

func TestABadResponseThatComesRightOnTheNextStreamIsForgotten(t *testing.T) {
	bubble(t, badResponses, func(t *testing.T, data []byte) {
		f := serve(t, bad(data, 0), ends)
		mustTalk(t, f)
		if received := f.all()[1].request(0).GetResume().Received; received != 0 {
			t.Errorf("resumed from %d", received)
		}
	})
}

func TestGapsAtDifferentPlacesAreNotTheSameGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gap := badResponses["a gap"]
		f := serve(t, bad(gap, 1), bad(gap, 1), bad(gap, 1), bad(gap, 0), ends)
		_, err := talk(t, f)
		mustRefuse(t, err)
		var received []uint64
		for _, c := range f.all()[1:] {
			received = append(received, c.request(0).GetResume().Received)
		}
		if !slices.Equal(received, []uint64{1, 2, 3}) {
			t.Errorf("resumed from %v", received)
		}
	})
}

func TestAFirstAnswerThatIsNoneIsABadResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if _, err := c.read(); err != nil {
				return err
			}
			if err := c.write(numbered(1, 1)); err != nil {
				return err
			}
			return c.readAll()
		}, ends)
		mustTalk(t, f)
		mustBegin(t, f, "open", "open")
	})
}

func TestAHeartbeatBeforeTheAnswerAndWhatItDoesNotKnowAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unknown := []byte{0xa2, 0x06, 0x01, 'x'} // field 100
		f := serve(t, func(c *call) error {
			if err := c.writeBytes(nil); err != nil {
				return err
			}
			if err := c.writeBytes(unknown); err != nil {
				return err
			}
			if err := c.attach(0, command(1)); err != nil {
				return err
			}
			if err := c.writeBytes(unknown); err != nil {
				return err
			}
			return c.end(2)
		})
		mustTalk(t, f)
	})
}

func TestDuplicatesAreDroppedAndAcknowledgedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := c.attach(0, command(1), command(2)); err != nil {
				return err
			}
			acks := func(n uint64) func(*pb.AttachRequest) bool {
				return func(r *pb.AttachRequest) bool { return r.Ack == n }
			}
			if _, err := c.readUntil(acks(2)); err != nil {
				return err
			}
			if err := c.write(numbered(1, 2)); err != nil {
				return err
			}
			if _, err := c.readUntil(acks(2)); err != nil {
				return err
			}
			if err := c.write(numbered(2, 3)); err != nil {
				return err
			}
			return c.end(4)
		})
		if got, err := talk(t, f); err != nil || !slices.Equal(got, []int{1, 2, 3}) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestWhatWasNotTakenOverIsSentAgainWithTheSequencesItHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t,
			func(c *call) error {
				if err := c.attach(0); err != nil {
					return err
				}
				for got := 0; got < 3; {
					request, err := c.read()
					if err != nil {
						return err
					}
					got += len(request.Events)
				}
				return status.Error(codes.Unavailable, "a cut")
			},
			func(c *call) error {
				if err := c.attach(1); err != nil {
					return err
				}
				request, err := c.read()
				if err != nil {
					return err
				}
				if request.FirstSequence != 2 || len(request.Events) != 2 || request.Events[0].GetJson() != "2" {
					return status.Errorf(codes.InvalidArgument, "sent again as %v", request)
				}
				return c.end(1)
			},
		)
		s := mustOpen(t, f.client())
		for n := range 3 {
			mustSend(t, s, n+1)
		}
		if _, err := numbers(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if s.TakenOver() != 1 {
			t.Errorf("taken over: %d", s.TakenOver())
		}
	})
}

func TestAServerThatTakesBackAnAckIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takesOne := func(c *call) error {
			if err := c.attach(0); err != nil {
				return err
			}
			if _, err := c.readUntil(func(r *pb.AttachRequest) bool { return len(r.Events) > 0 }); err != nil {
				return err
			}
			return c.write(&pb.AttachResponse{Ack: 1})
		}
		f := serve(t, takesOne, attached(nil), attached(nil))
		s := mustOpen(t, f.client())
		mustSend(t, s, 1)
		_, err := numbers(t.Context(), s)
		if refused := mustRefuse(t, err); refused.TakenOver != 1 {
			t.Errorf("got %v", refused)
		}
	})
}

func TestCloseGoesAgainAfterACutBehindTheEvents(t *testing.T) {
	closes := func(r *pb.AttachRequest) bool { return r.GetClose() != nil }
	synctest.Test(t, func(t *testing.T) {
		f := serve(t,
			func(c *call) error {
				if err := c.attach(0); err != nil {
					return err
				}
				_, err := c.readUntil(closes)
				return err
			},
			func(c *call) error {
				if err := c.attach(0); err != nil {
					return err
				}
				request, err := c.readUntil(closes)
				if err != nil {
					return err
				}
				if len(request.Events) != 1 || request.GetClose().Reason != "enough" {
					return status.Errorf(codes.InvalidArgument, "closed again as %v", request)
				}
				return c.end(1)
			},
		)
		s := mustOpen(t, f.client())
		mustSend(t, s, 1)
		if closed, err := s.Close(t.Context(), "enough"); err != nil || closed.Reason != session.Completed {
			t.Errorf("got %v, %v", closed, err)
		}
	})
}

func TestTheLastAckIsToldAgainUntilTheServerSaysOK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t,
			func(c *call) error {
				if err := c.attach(0); err != nil {
					return err
				}
				if err := c.end(1); err != nil {
					return err
				}
				return status.Error(codes.Unavailable, "a cut behind the last ack")
			},
			func(c *call) error {
				if err := c.attach(0); err != nil {
					return err
				}
				if _, err := c.readUntil(func(r *pb.AttachRequest) bool { return r.Ack == 1 }); err != nil {
					return err
				}
				return c.readAll()
			},
		)
		mustTalk(t, f)
		mustBegin(t, f, "open", "resume")
	})
}

func TestWithClosedInHandAForgottenSessionIsNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t,
			func(c *call) error {
				if err := c.attach(0); err != nil {
					return err
				}
				if err := c.end(1); err != nil {
					return err
				}
				return status.Error(codes.Unavailable, "a cut behind the last ack")
			},
			refused(refusal(codes.NotFound, "SESSION_NOT_FOUND", "REOPEN")),
		)
		mustTalk(t, f)
	})
}

// fails writes an error as the control part failed, sees the client half-close, and ends the call otherwise (E2).
func fails(c *call, failure error, end error) error {
	encoded, err := proto.Marshal(status.Convert(failure).Proto())
	if err != nil {
		return err
	}
	if err := c.write(&pb.AttachResponse{Control: &pb.AttachResponse_Failed{Failed: &pb.Failed{Status: encoded}}}); err != nil {
		return err
	}
	if err := c.readAll(); err != nil {
		return err
	}
	return end
}

func TestFailedIsObeyedOverTheStatusAndAnsweredByAHalfClose(t *testing.T) {
	lostOnTheWay := map[string]error{"cancelled": status.Error(codes.Canceled, ""), "OK": nil, "the same": refusal(codes.Aborted, "X", "NEVER")}
	bubble(t, lostOnTheWay, func(t *testing.T, end error) {
		began := time.Now()
		f := serve(t,
			func(c *call) error {
				if _, err := c.read(); err != nil {
					return err
				}
				return fails(c, refusal(codes.Unavailable, "DRAINING", "REOPEN"), end)
			},
			func(c *call) error {
				if err := c.attach(0, command(1)); err != nil {
					return err
				}
				return fails(c, refusal(codes.NotFound, "SOMETHING", "RESUME"), end)
			},
			func(c *call) error {
				if err := c.attach(0); err != nil {
					return err
				}
				return fails(c, refusal(codes.Aborted, "TAKEN_OVER", "NEVER", "received", "7"), end)
			},
		)
		got, err := talk(t, f)
		refused := mustRefuse(t, err)
		if !errors.Is(err, session.ErrTakenOver) || refused.TakenOver != 7 || refused.Code != codes.Aborted || !slices.Equal(got, []int{1}) {
			t.Errorf("got %v, %#v", got, refused)
		}
		mustBegin(t, f, "open", "open", "resume")
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestAStatusThatNeverFollowsFailedIsWaitedForAFewSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := c.attach(0); err != nil {
				return err
			}
			if err := fails(c, refusal(codes.Aborted, "TAKEN_OVER", "NEVER"), nil); err != nil {
				return err
			}
			<-c.stream.Context().Done()
			return nil
		})
		began := time.Now()
		_, err := talk(t, f)
		mustRefuse(t, err)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestAFailureThatDoesNotDecodeIsIgnored(t *testing.T) {
	fine, err := proto.Marshal(status.New(codes.OK, "").Proto())
	if err != nil {
		t.Fatal(err)
	}
	bubble(t, map[string][]byte{"no status": {0xff}, "OK": fine}, func(t *testing.T, data []byte) {
		f := serve(t, func(c *call) error {
			if err := c.attach(0); err != nil {
				return err
			}
			if err := c.write(&pb.AttachResponse{Control: &pb.AttachResponse_Failed{Failed: &pb.Failed{Status: data}}}); err != nil {
				return err
			}
			return refusal(codes.Aborted, "TAKEN_OVER", "NEVER")
		})
		_, err := talk(t, f)
		mustRefuse(t, err)
	})
}

func TestAServerThatNeverEndsTheCallDoesNotKeepTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serve(t, func(c *call) error {
			if err := ends(c); err != nil {
				return err
			}
			<-c.stream.Context().Done()
			return nil
		})
		began := time.Now()
		mustTalk(t, f)
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestThreeIntervalsOfSilenceBreakTheStreamAndAnyMessageIsASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick := limits()
		quick.HeartbeatInterval = durationpb.New(time.Second)
		f := serve(t, func(c *call) error {
			if err := c.attachWith(quick, 0); err != nil {
				return err
			}
			go func() {
				for range 4 {
					time.Sleep(2 * time.Second)
					_ = c.writeBytes(nil) // the client has not gone away yet
				}
			}()
			return c.readAll()
		}, ends)
		began := time.Now()
		mustTalk(t, f)
		if took := time.Since(began); took < 11*time.Second || took > 11500*time.Millisecond {
			t.Errorf("took %v: not 8 s and three intervals", took)
		}
		requests, at := f.all()[0].log()
		var beats []time.Duration
		for n, request := range requests[1:] {
			if !proto.Equal(request, &pb.AttachRequest{}) {
				t.Errorf("no heartbeat: %v", request)
			}
			beats = append(beats, at[n+1])
		}
		for n, beat := range beats {
			if beat != time.Duration(n+1)*time.Second {
				t.Errorf("heartbeats at %v", beats)
			}
		}
	})
}

func TestTheHookIsToldOfEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		hook := func(a session.Attachment) {
			text := fmt.Sprintf("%v %s", a.State, a.Session.ID())
			if a.Err != nil {
				text += fmt.Sprintf(" %v", a.Err)
			}
			if a.Final {
				text += " final"
			} else if a.State == session.Lost && (a.RetryIn < 0 || a.RetryIn > 200*time.Millisecond) {
				t.Errorf("will try again in %v", a.RetryIn)
			}
			told = append(told, text)
		}
		f := serve(t, attached(status.Error(codes.Unavailable, "a cut")), attached(refusal(codes.Aborted, "TAKEN_OVER", "NEVER")))
		_, err := talk(t, f, session.WithOnAttachment(hook))
		mustRefuse(t, err)
		want := []string{
			"attached s-1", "lost s-1 Unavailable: a cut", "resumed s-1", "lost s-1 TAKEN_OVER: the fake says TAKEN_OVER final",
		}
		if !slices.Equal(told, want) {
			t.Errorf("told %q", told)
		}
	})
}
