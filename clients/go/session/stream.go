package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/session-service/session-service/clients/go/internal/delivery"
)

const (
	// An ack that nothing carries goes alone after this time (protocol D3).
	ackDelay = 20 * time.Millisecond

	// Intervals of silence after which a stream counts as broken (protocol F3).
	silentIntervals = 3

	// What a server has to end the call when everything has been said.
	farewell = 5 * time.Second

	domain = "session_service"
)

// streamEnd says how a stream ended before its session did.
type streamEnd struct {
	code       codes.Code
	message    string
	reason     string            // that of the ErrorInfo, if there was one of our domain
	retry      string            // what it says to do; empty without one
	retryDelay time.Duration     // what the server asks to wait
	details    map[string]string // the ErrorInfo's metadata
	local      bool              // gRPC on this side has refused it, and nothing was sent
	defectAt   uint64            // the sequence at which a response could not be taken, or 0: twice at one is for good (D7)
}

func (e *streamEnd) Error() string {
	reason := e.reason
	if reason == "" {
		reason = e.code.String()
	}
	return reason + ": " + e.message
}

// GRPCStatus makes status.Code work on what the attachment hook is told.
func (e *streamEnd) GRPCStatus() *status.Status { return status.New(e.code, e.message) }

// received returns the last event that the server says it took over; 0 where it says nothing.
func (e *streamEnd) received() uint64 {
	n, err := strconv.ParseUint(e.details["received"], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// stream carries a session's conversation over one call: this goroutine reads, another writes.
type stream struct {
	session *Session
	call    grpc.ClientStream
	ctx     context.Context
	cancel  context.CancelCauseFunc // with a *streamEnd where that is what ends the stream
	attach  *time.Timer
	silence *time.Timer // nil before the answer
}

// carry attaches the session and carries it until the call has ended. It returns nil when the session has ended and
// everything is said.
func (s *Session) carry(ctx context.Context, md metadata.MD) *streamEnd {
	st := &stream{session: s}
	st.ctx, st.cancel = context.WithCancelCause(metadata.NewOutgoingContext(ctx, md))
	defer st.cancel(nil)

	timeout := s.client.options.policy.AttachTimeout
	st.attach = st.breakAfter(timeout, fmt.Sprintf("no answer within %v", timeout))
	defer st.attach.Stop()

	s.mu.Lock()
	first := s.conversation.firstRequest()
	s.mu.Unlock()

	call, release, err := s.client.connections.attach(st.ctx)
	if err != nil {
		end := st.end(err)
		// Of a call that could not begin the server has said nothing. Canceled is what gRPC says of a connection that was
		// closed, where it was not we who have cancelled.
		end.local = end.code == codes.Internal || (end.code == codes.Canceled && st.ctx.Err() == nil)
		return end
	}
	defer release()
	st.call = call
	s.mu.Lock()
	s.opens++
	s.mu.Unlock()

	written := make(chan struct{})
	go func() {
		defer close(written)
		st.write(first)
	}()
	err = st.read()
	st.cancel(nil) // a stream is cancelled before it is left
	<-written

	s.mu.Lock()
	s.conversation.attached = false
	finished, failed := s.conversation.finished(), s.conversation.failed
	s.mu.Unlock()
	if failed != nil {
		err = status.ErrorProto(failed) // a proxy may have lost the status that follows it
	}
	// The last ack may be lost with its stream; only the server's OK says that it has arrived.
	if finished && errors.Is(err, io.EOF) {
		return nil
	}
	return st.end(err)
}

// --- the writer ---

func (st *stream) write(first []byte) {
	s := st.session
	if !st.send(first) {
		return
	}
	var ackNow, beat, attached, acking bool
	ack := stoppedTimer()
	defer ack.Stop()
	heartbeat := stoppedTimer()
	defer heartbeat.Stop()
	for {
		s.mu.Lock()
		conversation := s.conversation
		before := conversation.outbox.Sent()
		conversation.suspicious = s.patience.suspects()
		data, due := conversation.nextRequest(ackNow || conversation.closed != nil, beat)
		if sent := conversation.outbox.Sent(); sent > before {
			s.patience.wrote(time.Now(), sent)
		}
		spoken := conversation.spoken()
		pending := conversation.resumable && conversation.inbox.AckPending()
		if conversation.resumable && (due || conversation.attached != attached) {
			heartbeat.Reset(conversation.heartbeatInterval)
		}
		attached = conversation.attached
		if due && !conversation.resumable {
			s.broadcast() // what is written makes room
		}
		s.mu.Unlock()
		ackNow, beat = false, false

		switch {
		case due:
			if !st.send(data) {
				return
			}
			continue
		case spoken:
			// A failure is the reader's, too.
			_ = st.call.CloseSend()
			time.AfterFunc(farewell, func() { st.cancel(nil) })
			return
		case pending && !acking:
			ack.Reset(ackDelay)
		case !pending:
			ack.Stop()
		}
		acking = pending

		select {
		case <-s.wake:
		case <-ack.C:
			ackNow, acking = true, false
		case <-heartbeat.C:
			beat = true
		case <-st.ctx.Done():
			return
		}
	}
}

// send returns false where the stream has broken. Of a write that fails the status says why, and the reader will have it
// (D7); unless it failed on this side, which the reader would never hear of.
func (st *stream) send(data []byte) bool {
	err := st.call.SendMsg(data)
	if err != nil && !errors.Is(err, io.EOF) {
		st.cancel(st.end(err))
	}
	return err == nil
}

// --- the reader ---

// read returns how the call ended: io.EOF for OK.
func (st *stream) read() error {
	s := st.session
	for {
		var data []byte
		if err := st.call.RecvMsg(&data); err != nil {
			return err
		}
		s.mu.Lock()
		conversation := s.conversation
		before := conversation.attached
		err := conversation.receive(data)
		after := conversation.attached
		if err == nil && after {
			s.patience.heard(time.Now(), conversation.outbox.Acked(), conversation.inbox.Expected()-1)
		}
		if err == nil && after && !before {
			defer st.hold(s.patience.attached(time.Now(), conversation.heartbeatInterval, conversation.idle()))()
		}
		interval := conversation.heartbeatInterval
		defectAt := conversation.inbox.Expected()
		s.mu.Unlock()
		if err != nil {
			code := codes.DataLoss
			if gap := (*delivery.GapError)(nil); errors.As(err, &gap) {
				code = codes.OutOfRange
			}
			return &streamEnd{code: code, message: "a bad response: " + err.Error(), defectAt: defectAt}
		}
		if after && !before {
			st.attach.Stop()
			silent := interval * silentIntervals
			st.silence = st.breakAfter(silent, fmt.Sprintf("the server was silent for %v", silent))
			defer st.silence.Stop()
			s.onAttached()
		} else if after {
			st.silence.Reset(interval * silentIntervals)
		}
		s.onResponse()
		if after && !conversation.resumable {
			st.waitRoom(interval)
		}
	}
}

// hold keeps events back for a time, which the returned function ends. The caller holds the lock.
func (st *stream) hold(d time.Duration) (stop func()) {
	if d == 0 {
		return func() {}
	}
	s := st.session
	s.conversation.held = true
	timer := time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if st.ctx.Err() == nil { // else another stream may have begun, with a hold of its own
			s.conversation.held = false
			s.wakeWriter()
		}
	})
	return func() { timer.Stop() }
}

// waitRoom lets HTTP/2 hold the server of a plain session back while the application is slow (P4).
func (st *stream) waitRoom(interval time.Duration) {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.conversation.inbox.HasRoom() && s.conversation.closing == nil {
		st.silence.Stop() // it is we who do not listen
		if s.waitChange(st.ctx) != nil {
			return
		}
		st.silence.Reset(interval * silentIntervals)
	}
}

// --- how it ends ---

// breakAfter cancels the call after a time.
func (st *stream) breakAfter(d time.Duration, why string) *time.Timer {
	return time.AfterFunc(d, func() { st.cancel(&streamEnd{code: codes.Unavailable, message: why}) })
}

// end says how the stream ended.
func (st *stream) end(err error) *streamEnd {
	if own := (*streamEnd)(nil); errors.As(err, &own) {
		return own
	}
	if errors.Is(err, io.EOF) {
		return &streamEnd{code: codes.OK, message: "the stream ended without closed"}
	}
	received := status.Convert(err)
	if own := (*streamEnd)(nil); received.Code() == codes.Canceled && errors.As(context.Cause(st.ctx), &own) {
		return own
	}
	end := &streamEnd{code: received.Code(), message: received.Message()}
	for _, detail := range received.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == domain {
				end.reason, end.details = detail.Reason, detail.Metadata
				end.retry = detail.Metadata["retry"]
				if end.retry == "" {
					end.retry = "NEVER"
				}
			}
		case *errdetails.RetryInfo:
			end.retryDelay = detail.RetryDelay.AsDuration()
		}
	}
	return end
}

func stoppedTimer() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}

// rawCodec hands messages through as bytes: of one that does not decode gRPC would make an error like a server's (D7),
// and the events of the outbox are encoded already.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = data
	return nil
}
