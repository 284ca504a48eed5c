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
	pauses := delays{policy: s.client.options.policy}
	lostAt, fresh, defectAt, before := time.Now(), false, uint64(0), 0
	for {
		md, err := s.metadata()
		if s.ctx.Err() != nil {
			return ErrEnded
		}
		if err != nil {
			return &LostError{Message: "asking for credentials failed", TakenOver: s.TakenOver(), Err: err}
		}
		end := s.carry(s.ctx, md)
		if end == nil {
			return nil
		}
		if s.ctx.Err() != nil {
			return ErrEnded
		}
		if attachments := s.countAttachments(); attachments > before {
			lostAt, fresh, before = time.Now(), false, attachments
			pauses.reset()
		}
		unauthenticated := end.code == codes.Unauthenticated
		repeated := end.defectAt > 0 && end.defectAt == defectAt
		exhausted := repeated || (fresh && unauthenticated)
		fresh, defectAt = fresh || unauthenticated, end.defectAt
		delay := time.Duration(0)
		if !unauthenticated {
			delay = max(pauses.next(), end.retryDelay)
		}
		problem := s.verdict(end, exhausted, time.Since(lostAt)+delay)
		if _, closed := s.Closed(); closed && problem != nil {
			return nil // with `closed` in hand it is no loss: the server only has not heard the last ack
		}
		lost := Attachment{Session: s, State: Lost, Err: end, RetryIn: delay}
		if problem != nil {
			lost.RetryIn, lost.Final = 0, true
		}
		s.tell(lost)
		if problem != nil {
			return problem
		}
		if !sleep(s.ctx, delay) {
			return ErrEnded
		}
	}
}

// verdict returns what ends the session for this client, or nil to try again (D7). Exhausted means that what could be
// tried has been tried; without is the time without an attachment, until the next try.
func (s *Session) verdict(end *streamEnd, exhausted bool, without time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	conversation := s.conversation
	takenOver := max(conversation.takenOver(), end.received())
	lost := func(format string, args ...any) error {
		return &LostError{Message: fmt.Sprintf(format, args...), TakenOver: takenOver}
	}
	known := end.retry == "" || end.retry == "RESUME" || end.retry == "REOPEN"
	if exhausted || !known || (end.retry == "" && isFinal(end.code)) {
		return &RefusedError{
			Code: end.code, Reason: end.reason, Message: end.message, Details: end.details, TakenOver: takenOver,
		}
	}
	refused := end.retry == "REOPEN" || (end.retry != "" && end.code == codes.Unauthenticated)
	if !conversation.resumable && (s.attachments > 0 || !refused) {
		// Whether an open without a request id has run the app is not known (A6).
		return lost("the stream of a plain session broke: %v", end)
	}
	if end.retry == "REOPEN" && (conversation.opened() || end.reason == "SESSION_NOT_FOUND") {
		return lost("%v", end)
	}
	limit, what := s.client.options.policy.Total, "not reached"
	if !conversation.opened() {
		limit, what = min(limit, repeatOpen), "not opened, as far as is known,"
	}
	if without > limit {
		return lost("the session was %s within %v: %v", what, limit, end)
	}
	return nil
}

// isFinal reports whether a status is for good where there is no ErrorInfo (D7).
func isFinal(code codes.Code) bool {
	switch code {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition,
		codes.ResourceExhausted, codes.Unimplemented:
		return true
	}
	return false
}

func (s *Session) metadata() (metadata.MD, error) {
	if s.client.options.credentials == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.client.options.policy.AttachTimeout)
	defer cancel()
	return s.client.options.credentials(ctx)
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
	s.tell(Attachment{Session: s, State: state})
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

// sleep returns false where the context was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
