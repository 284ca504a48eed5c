package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/session-service/session-service/clients/go/internal/payload"
)

const (
	// What closing waits for the last acknowledgement to be out.
	leaveTime = 5 * time.Second

	// What closing a session takes at most whose opening was given up (protocol A6).
	giveUpTime = 5 * time.Second
)

// Session is one run of an app, made by [Client.Open] and [Client.Resume]. Any number of goroutines may use it; only
// one at a time may take its commands.
type Session struct {
	client *Client
	cancel context.CancelFunc // leaves it
	ctx    context.Context
	done   chan struct{} // the supervisor has ended
	wake   chan struct{} // the writer shall look whether something is to be written

	givenUp chan struct{} // closed when nobody waits for its opening any more

	mu           sync.Mutex
	conversation *conversation
	patience     *patience
	changed      chan struct{} // closed, and forgotten, when something has changed; nil while nobody waits
	err          error         // why it is over for this client, where it has not ended
	lastEnd      *streamEnd    // how the last stream ended; nil before
	attachments  int
	opens        int // streams on which the open, or a resume, was written
	lastOpen     int // after how many of them there is no further try; 0 but for opens that were given up
	detached     bool
	receiving    bool
	loopErr      error // of the last loop over Commands
}

func newSession(client *Client, conversation *conversation) *Session {
	s := &Session{
		client:       client,
		done:         make(chan struct{}),
		wake:         make(chan struct{}, 1),
		conversation: conversation,
		patience:     newPatience(client.options.policy, time.Now()),
		givenUp:      make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// --- what there is ---

// ID returns the session's id: public, in the server's logs.
func (s *Session) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conversation.id
}

// Closed returns how the session ended; ok is false until then. It is known before the commands that came before have
// been taken.
func (s *Session) Closed() (closed Closed, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conversation.closed == nil {
		return Closed{}, false
	}
	return *s.conversation.closed, true
}

// Attached reports whether a stream carries the session just now.
func (s *Session) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conversation.attached
}

// Draining reports whether the server has said that it shuts down.
func (s *Session) Draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conversation.draining
}

// TakenOver returns the last event that the session is known to have taken over; after a [Client.Resume], where to send
// from. Of a plain session nothing is known: 0.
func (s *Session) TakenOver() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conversation.takenOver()
}

// Position returns where this client is: save it, and [Client.Resume] goes on from there in another process. The command
// that was taken last counts as done.
func (s *Session) Position() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conversation.position()
}

// --- what to do ---

// Send sends an event to the app's main task. It waits while the window is full, and returns once the event is kept to be
// sent: from then on it survives any number of lost connections. It fails with a [*PayloadError] where data cannot be
// carried, and with [ErrEnded], a [*RefusedError] or a [*LostError] where the session is over.
func (s *Session) Send(ctx context.Context, name string, data any) error {
	return s.SendTo(ctx, "", name, data)
}

// SendTo sends an event to a task, or, with the name "callback", to a callback.
func (s *Session) SendTo(ctx context.Context, taskID, name string, data any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Without the lock: data may have a MarshalJSON that takes its time.
	event, size, err := payload.EncodeEvent(name, taskID, data)
	if err != nil {
		return asPayloadError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.conversation.closed != nil || s.detached || s.conversation.closing != nil {
			return ErrEnded
		}
		if s.err != nil {
			return s.err
		}
		if sent, err := s.conversation.send(event, size); sent || err != nil {
			s.wakeWriter()
			return err
		}
		if err := s.waitChange(ctx); err != nil {
			return err
		}
	}
}

// Receive returns the next command, which acknowledges the one before. It returns [io.EOF] when there will be none: the
// session has ended, or was detached. Other errors are those of Send.
func (s *Session) Receive(ctx context.Context) (Command, error) {
	if err := ctx.Err(); err != nil {
		return Command{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receiving {
		return Command{}, errors.New("session: another goroutine is waiting for the next command: only one can")
	}
	s.receiving = true
	defer func() { s.receiving = false }()
	for {
		if s.detached {
			return Command{}, io.EOF
		}
		command, ok := s.conversation.take()
		s.wakeWriter()
		if !s.conversation.resumable {
			s.broadcast() // the reader may wait for room
		}
		switch {
		case ok:
			return command, nil
		case s.conversation.closed != nil:
			return Command{}, io.EOF
		case s.err != nil:
			return Command{}, s.err
		}
		if err := s.waitChange(ctx); err != nil {
			return Command{}, err
		}
	}
}

// Commands returns the commands to range over; see [Session.Receive]. The loop ends when the session has ended or was
// detached, when the context is done, or with an error: [Session.Err] says which. A loop that was left goes on in the next
// one, behind the command that it was left at.
func (s *Session) Commands(ctx context.Context) iter.Seq[Command] {
	return func(yield func(Command) bool) {
		s.setLoopErr(nil)
		for {
			command, err := s.Receive(ctx)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					s.setLoopErr(err)
				}
				return
			}
			if !yield(command) {
				return
			}
		}
	}
}

// Err returns the error that ended the last loop over [Session.Commands]: nil where the session has ended or was
// detached, or the loop was left.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loopErr
}

func (s *Session) setLoopErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loopErr = err
}

// Close ends the session behind the events that were sent, and waits for its end; the app cleans up meanwhile. Commands
// that come until then can be taken afterwards. The reason is for the server's log, and may be empty.
//
// If the context is done first, closing goes on in the background until the session has ended or the client is closed.
func (s *Session) Close(ctx context.Context, reason string) (Closed, error) {
	return s.close(ctx, reason, false)
}

// CloseNow is Close, but that it cancels the app's tasks instead of letting them finish.
func (s *Session) CloseNow(ctx context.Context, reason string) (Closed, error) {
	return s.close(ctx, reason, true)
}

func (s *Session) close(ctx context.Context, reason string, now bool) (Closed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached {
		return Closed{}, fmt.Errorf("%w: resume it to close it", ErrEnded)
	}
	if s.conversation.closed == nil {
		s.conversation.close(reason, now)
	} else {
		s.conversation.takeAll()
	}
	s.wakeWriter()
	s.broadcast() // those who wait to send wait in vain
	for s.conversation.closed == nil {
		if s.err != nil {
			return Closed{}, s.err
		}
		if err := s.waitChange(ctx); err != nil {
			return Closed{}, err
		}
	}
	closed := *s.conversation.closed
	s.mu.Unlock()
	defer s.mu.Lock()
	// Until the last acknowledgement is out.
	leave := time.NewTimer(leaveTime)
	defer leave.Stop()
	select {
	case <-s.done:
	case <-leave.C:
	case <-ctx.Done():
	}
	return closed, nil
}

// Detach leaves the session running without this client, once it has taken over all events, and returns where to go on.
// The command that was taken last counts as done. A plain session ends with its stream, so it cannot be detached.
func (s *Session) Detach(ctx context.Context) (Position, error) {
	if err := s.waitTakenOver(ctx); err != nil {
		return Position{}, err
	}
	s.abandon()
	return s.Position(), nil
}

func (s *Session) waitTakenOver(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.conversation.resumable {
		return fmt.Errorf("%w: a plain session ends with its stream, and cannot be detached", ErrEnded)
	}
	for !s.detached && s.conversation.closed == nil {
		if s.err != nil {
			return s.err
		}
		if s.conversation.idle() {
			break
		}
		if err := s.waitChange(ctx); err != nil {
			return err
		}
	}
	s.detached = true
	s.conversation.release()
	s.broadcast()
	return nil
}

// --- how ---

// abandon leaves the session as it is, without a word to the server.
func (s *Session) abandon() {
	s.cancel()
	<-s.done
}

// leave is how a client that closes leaves a session; the caller waits for done.
func (s *Session) leave() {
	s.mu.Lock()
	opening := s.attachments == 0
	s.mu.Unlock()
	if opening {
		s.giveUp()
	} else {
		s.cancel()
	}
}

// giveUp leaves a session that nobody has been given: if the server may have opened it, it is closed in the background
// (A6), by the stream that there is, or else by one more.
func (s *Session) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conversation
	if c.opening == nil || !c.resumable || s.opens == 0 {
		s.cancel() // nothing to close; a plain session ends with its stream (P3)
		return
	}
	if c.givenUp {
		return
	}
	c.giveUp()
	s.lastOpen = s.opens + 1
	s.patience = newPatience(s.client.options.policy, time.Now())
	time.AfterFunc(giveUpTime, s.cancel)
	close(s.givenUp)
	s.wakeWriter()
	s.broadcast()
}

func (s *Session) waitAttached(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.attachments == 0 {
		if s.err != nil {
			return s.err
		}
		if s.conversation.givenUp {
			return fmt.Errorf("%w: the client was closed", ErrEnded)
		}
		if err := s.waitChange(ctx); err != nil {
			if s.lastEnd != nil {
				return fmt.Errorf("%w: the last try ended with %w", err, s.lastEnd)
			}
			return err
		}
	}
	return nil
}

func (s *Session) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// broadcast ends the waits of waitChange. The caller holds the lock.
func (s *Session) broadcast() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// waitChange waits until something has changed, or the context is done. The caller holds the lock, which is free
// meanwhile.
func (s *Session) waitChange(ctx context.Context) error {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	changed := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
