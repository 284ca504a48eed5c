package session

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/session-service/session-service/clients/go/sessionpb"
)

// Command is what the app wants of its client.
type Command struct {
	// Name is the kind of command.
	Name string
	// TaskID is the task that sent it; answer with [Session.SendTo] that task.
	TaskID string
	// Spec is a json.RawMessage, a []byte or a proto.Message: an *anypb.Any where this program does not know the type.
	Spec any
}

// Decode reads a JSON spec into what v points to, as [json.Unmarshal] does, but that numbers stay exact: in an any they
// become a [json.Number].
func (c Command) Decode(v any) error {
	text, ok := c.Spec.(json.RawMessage)
	if !ok {
		return fmt.Errorf("session: the spec of %q is a %T, no JSON", c.Name, c.Spec)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(v)
}

// CloseReason says why a session ended (docs/protocol.md E4).
type CloseReason int

const (
	// Unspecified is a reason that this client does not know.
	Unspecified = CloseReason(sessionpb.CloseReason_CLOSE_REASON_UNSPECIFIED)
	// Completed means that the app's main task has returned.
	Completed = CloseReason(sessionpb.CloseReason_CLOSE_REASON_COMPLETED)
	// ByClient means that the client's close made it end.
	ByClient = CloseReason(sessionpb.CloseReason_CLOSE_REASON_CLIENT)
	// ByServer means that the app closed its session, or an administrator did.
	ByServer = CloseReason(sessionpb.CloseReason_CLOSE_REASON_SERVER)
	// Expired means that no client was attached for the resume window.
	Expired = CloseReason(sessionpb.CloseReason_CLOSE_REASON_EXPIRED)
	// Failed means that an exception left the app's main task.
	Failed = CloseReason(sessionpb.CloseReason_CLOSE_REASON_FAILED)
	// Shutdown means that the server shut down.
	Shutdown = CloseReason(sessionpb.CloseReason_CLOSE_REASON_SHUTDOWN)
)

// String returns the reason as the protocol names it, such as COMPLETED.
func (r CloseReason) String() string {
	const prefix = len("CLOSE_REASON_")
	return sessionpb.CloseReason_name[int32(r)][prefix:]
}

func closeReason(r sessionpb.CloseReason) CloseReason {
	if _, known := sessionpb.CloseReason_name[int32(r)]; !known {
		return Unspecified // of a newer server
	}
	return CloseReason(r)
}

// Closed says how a session ended.
type Closed struct {
	// Reason is who or what ended it.
	Reason CloseReason
	// Message is for people; it names the error's id where the app failed.
	Message string
}

// Position is where a client is in a session: what another process needs to go on. It holds the session's token, so
// it is a secret; formatting it does not show that, marshaling it does.
type Position struct {
	// SessionID is public.
	SessionID string `json:"session_id"`
	// Token resumes the session.
	Token string `json:"token"`
	// Received is the last command that the application has in hand, or had.
	Received uint64 `json:"received"`
	// Sent is the last event that was sent.
	Sent uint64 `json:"sent"`
}

// String leaves the token out.
func (p Position) String() string {
	return fmt.Sprintf("%s, received %d, sent %d", p.SessionID, p.Received, p.Sent)
}

// GoString leaves the token out.
func (p Position) GoString() string {
	return fmt.Sprintf("session.Position{SessionID: %q, Received: %d, Sent: %d}", p.SessionID, p.Received, p.Sent)
}
