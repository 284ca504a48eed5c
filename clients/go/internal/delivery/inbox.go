package delivery

import "fmt"

// Inbox drops what came before, refuses gaps, keeps what the application has not taken, and knows what there is to
// acknowledge.
type Inbox[T any] struct {
	// Window is what the peer was granted; a resume may change it.
	Window Window

	waiting queue[T]
	taken   uint64 // everything up to here has been taken and will never be needed again (D4)

	told        uint64 // the last acknowledgement written on this stream
	repeat      bool   // an item came again: the peer may have missed its acknowledgement (D2)
	untoldBytes int
}

// NewInbox begins after taken: where another process goes on.
func NewInbox[T any](window Window, taken uint64) *Inbox[T] {
	return &Inbox[T]{Window: window, taken: taken, told: taken}
}

// GapError says that items are missing (D2).
type GapError struct {
	Expected, Got uint64
}

func (e *GapError) Error() string {
	return fmt.Sprintf("a gap: expected sequence %d, got %d", e.Expected, e.Got)
}

// Taken returns the last sequence that was taken.
func (i *Inbox[T]) Taken() uint64 { return i.taken }

// Expected returns the sequence of the next new item.
func (i *Inbox[T]) Expected() uint64 { return i.taken + uint64(i.waiting.len()) + 1 }

// Empty reports whether everything has been taken.
func (i *Inbox[T]) Empty() bool { return i.waiting.len() == 0 }

// HasRoom is false while a window's worth waits.
func (i *Inbox[T]) HasRoom() bool {
	return i.Window.hasRoom(i.waiting.len(), i.waiting.bytes)
}

// Skip returns how many of count items, from the sequence first on, have been here before. It fails with a *GapError
// where something is missing before them.
func (i *Inbox[T]) Skip(first uint64, count int) (int, error) {
	expected := i.Expected()
	if first > expected {
		return 0, &GapError{expected, first}
	}
	known := int(min(expected-first, uint64(count)))
	if known > 0 {
		i.repeat = true
	}
	return known, nil
}

// Put keeps a new item until it is taken. It fails where the peer exceeds its window.
func (i *Inbox[T]) Put(item T, size int) error {
	if !i.Window.fits(i.waiting.len(), i.waiting.bytes, size) {
		return fmt.Errorf("more than %d commands or %d bytes are unacknowledged", i.Window.Messages, i.Window.Bytes)
	}
	i.PutExempt(item, size)
	return nil
}

// PutExempt keeps an item that needs no window (D6, P4).
func (i *Inbox[T]) PutExempt(item T, size int) {
	i.waiting.push(entry[T]{item, size})
}

// Head returns the first item that was not taken.
func (i *Inbox[T]) Head() (item T, ok bool) {
	if i.Empty() {
		return item, false
	}
	return i.waiting.entries[0].item, true
}

// Take counts the head as taken: from now on it is acknowledged.
func (i *Inbox[T]) Take() {
	i.untoldBytes += i.waiting.pop().size
	i.taken++
}

// RestartAcks begins a new stream, whose first request says that everything below Expected is here: an acknowledgement
// of that is an acknowledgement of what the stream has spoken of (D8). What was written on the old one may be lost with
// it (D3).
func (i *Inbox[T]) RestartAcks() {
	i.told = 0
	i.repeat = false
}

// AckPending reports whether the peer has not been told everything.
func (i *Inbox[T]) AckPending() bool { return i.repeat || i.taken > i.told }

// AckDue reports whether the peer should be told at once, for it may be waiting: a quarter of the window (D3).
func (i *Inbox[T]) AckDue() bool {
	if i.taken <= i.told {
		return false
	}
	return (i.taken-i.told)*4 >= uint64(i.Window.Messages) || uint64(i.untoldBytes)*4 >= uint64(i.Window.Bytes)
}

// Ack returns what to tell the peer, which the caller does next.
func (i *Inbox[T]) Ack() uint64 {
	i.told = i.taken
	i.untoldBytes = 0
	i.repeat = false
	return i.told
}
