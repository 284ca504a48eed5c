package session

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/session-service/session-service/clients/go/internal/delivery"
	"github.com/session-service/session-service/clients/go/internal/payload"
	"github.com/session-service/session-service/clients/go/sessionpb"
)

const (
	// The most that a message of several events holds, in bytes, where the server takes that much (protocol F7).
	batchSize = 256 << 10

	// What an event takes in a batch beside its own bytes, at most: its tag and its length.
	eventFraming = 4

	// What a message keeps free for its other parts.
	messageOverhead = 1024

	defaultMaxMessage        = 4_000_000
	defaultHeartbeatInterval = 25 * time.Second

	// In characters; the server cuts it there, too.
	longestReason = 1000
)

// conversation is the state of one session at the client, without IO: what to write next, and what a response means.
//
// It outlives streams. For each stream the caller writes firstRequest, then whatever nextRequest returns whenever
// something has changed, and hands every response to receive. The caller locks. The rules are those of
// docs/protocol.md, D1 to E1.
type conversation struct {
	id        string // empty before the first answer
	resumable bool
	attached  bool    // the current stream has been answered
	closed    *Closed // known before the application has taken what came before
	draining  bool

	failed *statuspb.Status // the error that the current stream is about to end with
	held   bool             // no event goes out on the current stream for now

	// The first unacknowledged event may be poisoned: it goes alone, and nothing behind it (D7).
	suspicious bool

	heartbeatInterval time.Duration

	opening       *sessionpb.Open // nil where it goes on from a position
	token         string
	clientID      string
	commandWindow *sessionpb.Window
	maxMessage    int
	adopts        bool // only the server knows which event is the next

	outbox *delivery.Outbox[[]byte] // encoded requests of one event each
	inbox  *delivery.Inbox[item]

	holding bool   // the application works on the head of the inbox
	ready   []item // acknowledged before it was asked for, since we are closing

	closing      *sessionpb.Close
	closeWritten bool
	givenUp      bool // nobody waits for the session that was asked for: it is closed, and all is said then
}

// item is what comes down: a command, or with closed the end.
type item struct {
	command Command
	closed  *Closed
}

func newConversation(opening *sessionpb.Open) *conversation {
	c := conversationAt(Position{}, opening.GetCommandWindow(), opening.GetClientId())
	c.resumable = opening.GetResumable()
	c.opening = opening
	c.adopts = false
	return c
}

func conversationAt(position Position, window *sessionpb.Window, clientID string) *conversation {
	return &conversation{
		id:                position.SessionID,
		token:             position.Token,
		resumable:         true,
		heartbeatInterval: defaultHeartbeatInterval,
		clientID:          clientID,
		commandWindow:     window,
		maxMessage:        defaultMaxMessage,
		adopts:            true,
		outbox:            delivery.NewOutbox[[]byte](position.Sent),
		inbox:             delivery.NewInbox[item](grantedWindow(window), position.Received),
	}
}

// --- for the application ---

// position is where this client is. The command in hand counts as done: it could not be resumed from otherwise, for
// asking for the next one acknowledges it.
func (c *conversation) position() Position {
	received := c.inbox.Taken()
	if c.holding {
		received++
	}
	return Position{SessionID: c.id, Token: c.token, Received: received, Sent: c.outbox.Last()}
}

// opened is true once the session is known to exist.
func (c *conversation) opened() bool { return c.id != "" }

// takenOver returns the last event that the server has said it took over; of a plain session it says nothing.
func (c *conversation) takenOver() uint64 {
	if !c.resumable || c.adopts {
		return 0
	}
	return c.outbox.Acked()
}

// send adds an event, as payload.EncodeEvent returns it. It returns false where the window has no room.
func (c *conversation) send(encoded []byte, size int) (bool, error) {
	if !c.outbox.HasRoom() {
		return false, nil
	}
	// Before it has a sequence: one that can never be delivered would block all behind it (F7).
	if most := c.roomForEvents(); size > most {
		text := fmt.Sprintf("the event is %d bytes, of at most %d: send it in parts", size, most)
		return false, &PayloadError{Path: "data", Message: text}
	}
	c.outbox.Append(encoded, size)
	return true, nil
}

// release acknowledges the command that take gave out last: the application has done with it (D4).
func (c *conversation) release() {
	if c.holding {
		c.holding = false
		c.inbox.Take()
	}
}

// take returns the next command; false where nothing is there, or only the end.
func (c *conversation) take() (Command, bool) {
	c.release()
	next, ok := c.inbox.Head()
	if len(c.ready) > 0 {
		next, ok = c.ready[0], true
		c.ready = c.ready[1:]
	} else if ok {
		c.holding = true
	}
	if next.closed != nil {
		c.release() // there is nothing after it to ask for
		return Command{}, false
	}
	return next.command, ok
}

// close ends the session: behind what has been sent, or now.
func (c *conversation) close(reason string, now bool) {
	if c.closing != nil && (!now || c.closing.Now) {
		return
	}
	runes := []rune(reason) // which makes it UTF-8, too
	c.closing = &sessionpb.Close{Reason: string(runes[:min(len(runes), longestReason)]), Now: now}
	c.closeWritten = false
	c.takeAll()
}

// takeAll acknowledges everything, and keeps it for take. After close that is done at once with whatever comes: else a
// full window and a graceful close would wait for each other (D4).
func (c *conversation) takeAll() {
	c.release()
	for {
		next, ok := c.inbox.Head()
		if !ok {
			return
		}
		c.ready = append(c.ready, next)
		c.inbox.Take()
	}
}

// giveUp closes a session whose opening nobody waits for any more (A6).
func (c *conversation) giveUp() {
	c.close("the open was given up", true)
	c.givenUp = true
}

// --- for the stream ---

// spoken is true when nothing is left to be said on this stream: half-close then, and read on to the status (E2).
func (c *conversation) spoken() bool {
	return c.failed != nil || c.finished() || (c.givenUp && c.closeWritten)
}

// idle is true when the server has taken over every event.
func (c *conversation) idle() bool { return c.outbox.Acked() == c.outbox.Last() }

// finished is true when nothing is left to be said, to either side.
func (c *conversation) finished() bool {
	return c.closed != nil && (!c.resumable || (c.inbox.Empty() && !c.inbox.AckPending()))
}

// firstRequest begins a stream and returns what to write first.
func (c *conversation) firstRequest() []byte {
	c.attached, c.closeWritten, c.failed, c.held = false, false, nil, false
	c.inbox.RestartAcks()
	request := &sessionpb.AttachRequest{}
	if c.opening != nil && !c.opened() {
		request.Control = &sessionpb.AttachRequest_Open{Open: c.opening}
	} else {
		request.Control = &sessionpb.AttachRequest_Resume{Resume: &sessionpb.Resume{
			SessionId:     c.id,
			ResumeToken:   c.token,
			Received:      c.inbox.Expected() - 1,
			CommandWindow: c.commandWindow,
			ClientId:      c.clientID,
		}}
	}
	return encode(request)
}

// nextRequest returns what to write next; false when nothing is due. With ack it acknowledges even if nothing else is to
// be written, with heartbeat it writes in any case.
func (c *conversation) nextRequest(ack, heartbeat bool) ([]byte, bool) {
	if !c.attached && !c.givenUp {
		return nil, false
	}
	head := &sessionpb.AttachRequest{}
	var first uint64
	var events [][]byte
	most := min(batchSize, c.maxMessage) - messageOverhead
	switch {
	case !c.attached || c.held:
	case !c.suspicious:
		first, events = c.outbox.Take(most, eventFraming)
	case c.outbox.Sent() == c.outbox.Acked():
		first, events = c.outbox.Take(0, 0)
	}
	if c.resumable {
		if len(events) > 0 {
			head.FirstSequence = first
		}
		if c.inbox.AckPending() && (len(events) > 0 || ack || heartbeat || c.inbox.AckDue()) {
			head.Ack = c.inbox.Ack()
		}
	} else if err := c.outbox.Ack(c.outbox.Sent()); err != nil {
		panic(err) // what was sent can be acknowledged
	}
	size := 0
	for _, event := range events {
		size += len(event)
	}
	if c.closing != nil && !c.closeWritten && (c.closing.Now || !c.outbox.Waiting()) &&
		(size == 0 || size+proto.Size(c.closing) <= most) {
		c.closeWritten = true
		head.Control = &sessionpb.AttachRequest_Close{Close: c.closing}
	}
	data := encode(head)
	for _, event := range events {
		data = append(data, event...)
	}
	return data, len(data) > 0 || heartbeat
}

// roomForEvents returns how many bytes of events a message may hold.
func (c *conversation) roomForEvents() int { return c.maxMessage - messageOverhead }

// receive takes a response. An error breaks the stream (D7).
func (c *conversation) receive(data []byte) error {
	response := &sessionpb.AttachResponse{}
	if err := proto.Unmarshal(data, response); err != nil {
		return err
	}
	if !c.attached {
		if failed := response.GetFailed(); failed != nil {
			c.onFailed(failed)
			return nil
		}
		if isHeartbeat(response) {
			return nil
		}
		if err := c.onAnswer(response); err != nil {
			return err
		}
	}
	if c.resumable {
		if err := c.outbox.Ack(response.Ack); err != nil {
			return err
		}
	}
	if err := c.onCommands(response); err != nil {
		return err
	}
	switch control := response.Control.(type) {
	case *sessionpb.AttachResponse_Draining:
		c.draining = true
	case *sessionpb.AttachResponse_Closed:
		if err := c.onClosed(control.Closed); err != nil {
			return err
		}
	case *sessionpb.AttachResponse_Failed:
		c.onFailed(control.Failed)
	}
	if c.closing != nil {
		c.takeAll()
	}
	return nil
}

func (c *conversation) onAnswer(response *sessionpb.AttachResponse) error {
	var limits *sessionpb.Limits
	switch control := response.Control.(type) {
	case *sessionpb.AttachResponse_Opened:
		if c.opened() {
			return fmt.Errorf("the server answered a resume with opened")
		}
		c.id, c.token, limits = control.Opened.SessionId, control.Opened.ResumeToken, control.Opened.GetLimits()
		if err := c.outbox.Resume(0); err != nil {
			return err
		}
	case *sessionpb.AttachResponse_Resumed:
		if !c.opened() {
			return fmt.Errorf("the server answered an open with resumed")
		}
		limits = control.Resumed.GetLimits()
		if c.adopts {
			c.adopts = false
			c.outbox = delivery.NewOutbox[[]byte](control.Resumed.Received)
		}
		if err := c.outbox.Resume(control.Resumed.Received); err != nil {
			return err
		}
	default:
		return fmt.Errorf("the server began with %T", response.Control)
	}
	c.attached = true
	c.outbox.Window = grantedWindow(limits.GetEventWindow())
	if c.resumable {
		c.inbox.Window = grantedWindow(limits.GetCommandWindow())
	}
	c.maxMessage = int(limits.GetMaxMessageBytes())
	if c.maxMessage == 0 {
		c.maxMessage = defaultMaxMessage
	}
	if interval := limits.GetHeartbeatInterval().AsDuration(); interval > 0 {
		c.heartbeatInterval = interval
	}
	return nil
}

func (c *conversation) onCommands(response *sessionpb.AttachResponse) error {
	if len(response.Commands) == 0 {
		return nil
	}
	first := c.inbox.Expected()
	if c.resumable {
		first = response.FirstSequence
	}
	known, err := c.inbox.Skip(first, len(response.Commands))
	if err != nil {
		return err
	}
	for _, command := range response.Commands[known:] {
		spec, err := payload.DecodeSpec(command)
		if err != nil {
			return err
		}
		next := item{command: Command{Name: command.Command, TaskID: command.TaskId, Spec: spec}}
		if !c.resumable {
			c.inbox.PutExempt(next, proto.Size(command)) // it is held back by HTTP/2 (P4)
		} else if err := c.inbox.Put(next, proto.Size(command)); err != nil {
			return err
		}
	}
	return nil
}

func (c *conversation) onClosed(closed *sessionpb.Closed) error {
	sequence := c.inbox.Expected()
	if c.resumable {
		sequence = closed.GetSequence()
	}
	known, err := c.inbox.Skip(sequence, 1)
	if err != nil {
		return err
	}
	if known == 0 {
		c.closed = &Closed{Reason: closeReason(closed.GetReason()), Message: closed.GetMessage()}
		c.inbox.PutExempt(item{closed: c.closed}, 0)
	}
	return nil
}

// onFailed ignores what is no error: the status of the call says the same.
func (c *conversation) onFailed(failed *sessionpb.Failed) {
	status := &statuspb.Status{}
	if proto.Unmarshal(failed.GetStatus(), status) == nil && status.Code != int32(code.Code_OK) {
		c.failed = status
	}
}

// isHeartbeat reports whether a response holds nothing, or nothing that this client knows (F6).
func isHeartbeat(response *sessionpb.AttachResponse) bool {
	return response.Control == nil && len(response.Commands) == 0 && response.Ack == 0
}

// grantedWindow returns a window with its defaults (D5).
func grantedWindow(window *sessionpb.Window) delivery.Window {
	granted := delivery.Window{Messages: window.GetMessages(), Bytes: window.GetBytes()}
	if granted.Messages == 0 {
		granted.Messages = 1024
	}
	if granted.Bytes == 0 {
		granted.Bytes = 1 << 20
	}
	return granted
}

func encode(request *sessionpb.AttachRequest) []byte {
	data, err := proto.Marshal(request)
	if err != nil {
		panic(err) // its texts have been checked
	}
	return data
}
