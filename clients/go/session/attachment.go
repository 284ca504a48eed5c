package session

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// A client repeats an open for so long, then the outcome is unknown (protocol A6).
const repeatOpen = 60 * time.Second

// AttachmentState says what has happened to the stream of a session.
type AttachmentState int

const (
	// Attached means that the session has been opened, or adopted by [Client.Resume].
	Attached AttachmentState = iota + 1
	// Resumed means that it goes on, on a new stream.
	Resumed
	// Lost means that its stream has ended before it has.
	Lost
)

func (s AttachmentState) String() string {
	return [...]string{Attached: "attached", Resumed: "resumed", Lost: "lost"}[s]
}

// Attachment is a change, as the hook of [WithOnAttachment] is told of it.
type Attachment struct {
	// Session is whose stream it is.
	Session *Session
	// State is what has happened.
	State AttachmentState
	// Err is why it was lost; nil otherwise.
	Err error
	// RetryIn is the time until the next try, if it was lost.
	RetryIn time.Duration
	// Final means that it was lost and there will be no next try.
	Final bool
}

// supervise attaches, again and again, until the session has ended or there is no hope.
func (s *Session) supervise() {
	defer s.cancel()
	err := s.keepAttached()
	s.mu.Lock()
	if s.conversation.closed == nil {
		s.err = err
	}
	s.broadcast()
	s.mu.Unlock()
	close(s.done)
	s.client.forget(s)
}

// keepAttached returns why the session is over for this client; nil where it has ended.
func (s *Session) keepAttached() error {
	fresh, defectAt, before := false, uint64(0), 0
	for {
		md, err := s.metadata()
		if s.ctx.Err() != nil {
			return ErrEnded
		}
		if err != nil {
			return err
		}
		end := s.carry(s.ctx, md)
		if end == nil {
			return nil
		}
		if s.ctx.Err() != nil || s.isLeft(end) {
			return ErrEnded
		}
		if attachments := s.countAttachments(); attachments > before {
			fresh, before = false, attachments
		}
		unauthenticated := end.code == codes.Unauthenticated
		repeated := end.defectAt > 0 && end.defectAt == defectAt
		exhausted := repeated || (fresh && unauthenticated)
		fresh, defectAt = fresh || unauthenticated, end.defectAt
		wrong := s.mismatch(end)

		s.mu.Lock()
		s.lastEnd = end
		calm := s.patience.calm()
		delay, poisoned := s.patience.broke(time.Now(), end.retry != "")
		if unauthenticated && calm {
			delay = 0 // for it is the credentials that are old
		}
		delay = max(delay, end.retryDelay)
		quiet := s.conversation.givenUp
		if quiet {
			delay = min(delay, giveUpTime/5) // whatever the policy, for there is not the time to wait longer
		}
		problem := s.verdict(end, wrong, exhausted, poisoned, time.Now().Add(delay))
		s.mu.Unlock()

		if _, closed := s.Closed(); closed && problem != nil {
			return nil // with `closed` in hand it is no loss: the server only has not heard the last ack
		}
		lost := Attachment{Session: s, State: Lost, Err: end, RetryIn: delay}
		if problem != nil {
			lost.RetryIn, lost.Final = 0, true
		}
		if !quiet {
			s.tell(lost)
		}
		if problem != nil {
			return problem
		}
		if !s.sleep(delay, quiet) {
			return ErrEnded
		}
	}
}

// isLeft reports whether an open that was given up needs no further try: the server has heard of it, or has no session, or
// the last one was made.
func (s *Session) isLeft(end *streamEnd) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conversation.givenUp && (end.code == codes.OK || end.retry == "REOPEN" || s.opens >= s.lastOpen)
}

// mismatch returns what is wrong for good with the connection. Once there was an attachment it cannot be much.
func (s *Session) mismatch(end *streamEnd) string {
	if s.countAttachments() > 0 || end.retry != "" || end.code != codes.Unavailable {
		return ""
	}
	return s.client.mismatch(s.ctx, end.message)
}

// verdict returns what ends the session for this client, or nil to try again at a time (D7). Wrong is what is wrong with
// the connection; exhausted means that what could be tried has been tried, poisoned that an event never gets through. The
// caller holds the lock.
func (s *Session) verdict(end *streamEnd, wrong string, exhausted, poisoned bool, next time.Time) error {
	conversation := s.conversation
	takenOver := max(conversation.takenOver(), end.received())
	lost := func(format string, args ...any) *LostError {
		return &LostError{Message: fmt.Sprintf(format, args...), TakenOver: takenOver, Err: end}
	}
	known := end.retry == "" || end.retry == "RESUME" || end.retry == "REOPEN"
	final := end.retry == "" && isFinal(end.code, conversation.opened())
	// The header list that is too long for a server may be shorter the next time; before there was a session it is final.
	final = final || (end.local && (s.attachments == 0 || end.code == codes.Canceled))
	if exhausted || !known || final || wrong != "" {
		refused := &RefusedError{
			Code: end.code, Reason: end.reason, Message: end.message, Details: end.details, TakenOver: takenOver,
		}
		if wrong != "" {
			refused.Message = wrong + ": " + end.message
		}
		return refused
	}
	refused := end.retry == "REOPEN" || (end.retry != "" && end.code == codes.Unauthenticated)
	if !conversation.resumable && (s.attachments > 0 || !refused) {
		// Whether an open without a request id has run the app is not known (A6).
		return lost("the stream of a plain session broke")
	}
	if end.retry == "REOPEN" && (conversation.opened() || end.reason == "SESSION_NOT_FOUND") {
		return lost("the server has no such session")
	}
	if poisoned {
		sequence, size := conversation.outbox.First()
		return &PoisonedEventError{Sequence: sequence, Size: size, lost: lost("an event never gets through")}
	}
	limit, what := s.client.options.policy.Total, "made no progress"
	if !conversation.opened() {
		limit, what = min(limit, repeatOpen), "was not opened, as far as is known,"
	}
	if s.patience.over(next, limit) {
		return lost("the session %s within %v", what, limit)
	}
	return nil
}

// isFinal reports whether a status is for good where there is no ErrorInfo (D7).
func isFinal(code codes.Code, opened bool) bool {
	switch code {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition, codes.Unimplemented:
		return true
	case codes.ResourceExhausted:
		return !opened // later it is a limit of gRPC's own, which shall end no session
	}
	return false
}

// metadata asks for the credentials. Its error ends the session for this client.
func (s *Session) metadata() (metadata.MD, error) {
	if s.client.options.credentials == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.client.options.policy.AttachTimeout)
	defer cancel()
	md, err := s.client.options.credentials(ctx)
	if err != nil {
		return nil, &LostError{Message: "asking for credentials failed", TakenOver: s.TakenOver(), Err: err}
	}
	md, err = sendable(md)
	if err != nil {
		return nil, &RefusedError{Code: codes.InvalidArgument, Message: err.Error(), TakenOver: s.TakenOver()}
	}
	return md, nil
}

func (s *Session) countAttachments() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attachments
}

func (s *Session) onAttached() {
	state := Resumed
	if s.countAttachments() == 0 {
		state = Attached
	}
	if !s.isGivenUp() {
		s.tell(Attachment{Session: s, State: state})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attachments++
}

func (s *Session) onResponse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeWriter()
	s.broadcast()
}

func (s *Session) tell(attachment Attachment) {
	if hook := s.client.options.onAttachment; hook != nil {
		hook(attachment)
	}
}

func (s *Session) isGivenUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conversation.givenUp
}

// sleep waits for the next try; an opening that is given up has another one at once. It returns false where the session
// is left.
func (s *Session) sleep(d time.Duration, givenUp bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	hurry := s.givenUp
	if givenUp {
		hurry = nil
	}
	select {
	case <-timer.C:
		return true
	case <-hurry:
		return true
	case <-s.ctx.Done():
		return false
	}
}
