package session

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/session-service/session-service/clients/go/internal/payload"
)

var (
	// ErrEnded says that the session is over for this client: it has ended, or was closed or detached here, or the client
	// was closed.
	ErrEnded = errors.New("session: over for this client")

	// ErrTakenOver says that another client has resumed the session; its events must come from there now. It is always
	// within a [RefusedError].
	ErrTakenOver = errors.New("session: another client has taken it over")
)

// RefusedError says that the server, or gRPC on this side, refused or ended the stream, and trying again would not help.
type RefusedError struct {
	// Code is the status.
	Code codes.Code
	// Reason is that of the ErrorInfo, such as APP_NOT_FOUND; empty where the server, or a proxy, sent none.
	Reason string
	// Message is for people.
	Message string
	// Details is the ErrorInfo's metadata.
	Details map[string]string
	// TakenOver is the last event known to have been taken over by the session; the outcome of later ones is unknown.
	TakenOver uint64
}

func (e *RefusedError) Error() string {
	reason := e.Reason
	if reason == "" {
		reason = e.Code.String()
	}
	return fmt.Sprintf("session: refused: %s: %s", reason, e.Message)
}

// Is makes errors.Is(err, ErrTakenOver) work.
func (e *RefusedError) Is(target error) bool {
	return target == ErrTakenOver && e.Reason == "TAKEN_OVER"
}

// GRPCStatus makes [status.Code] and its like work.
func (e *RefusedError) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// LostError says that the session cannot be resumed: it is gone, or was not reached in time, or the outcome of its open
// is unknown. To open again would run the app a second time, so that is the caller's choice.
type LostError struct {
	// Message is for people.
	Message string
	// TakenOver is the last event known to have been taken over by the session; the outcome of later ones is unknown.
	TakenOver uint64
	// Err is what made it so: an error of the caller's credentials, or how the last stream ended, for [status.Code] and its
	// like; may be nil.
	Err error
}

func (e *LostError) Error() string {
	text := "session: lost: " + e.Message
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.TakenOver > 0 {
		text += fmt.Sprintf("; events up to %d are known to have been taken over", e.TakenOver)
	}
	return text
}

func (e *LostError) Unwrap() error { return e.Err }

// PoisonedEventError says that an event never gets through: each stream that it was written to broke. Something on the
// way does not like it, such as a proxy with a limit of 1 MB. It is a [LostError] too.
type PoisonedEventError struct {
	// Sequence is the event's number in the session, from 1.
	Sequence uint64
	// Size is that of the event, encoded, in bytes.
	Size int

	lost *LostError
}

func (e *PoisonedEventError) Error() string {
	return fmt.Sprintf("session: lost: event %d, of %d bytes, broke each of the %d streams that it was written to: see what a"+
		" proxy allows (nginx: client_max_body_size), or send it in smaller parts: %v", e.Sequence, e.Size, breaksToGiveUp, e.lost.Err)
}

// Unwrap returns the [LostError] that it is.
func (e *PoisonedEventError) Unwrap() error { return e.lost }

// PayloadError says that a value cannot be carried exactly, or is too large. Nothing was sent, and the session goes on.
type PayloadError struct {
	// Path says where the fault is, such as data.items[3], as far as that is known.
	Path string
	// Message says what it is.
	Message string
}

func (e *PayloadError) Error() string { return "session: " + e.Path + ": " + e.Message }

func asPayloadError(err error) error {
	var fault *payload.Error
	if errors.As(err, &fault) {
		return &PayloadError{Path: fault.Path, Message: fault.Message}
	}
	return err
}
