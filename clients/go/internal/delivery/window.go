// Package delivery does the bookkeeping of exactly-once delivery, without IO.
//
// Events have an [Outbox] at the client, commands an [Inbox]. They know sequences, acknowledgements and windows, and
// nothing of streams, clocks or payloads: the caller reads, writes, waits and locks. The rules are D1 to D8 and A4 of
// docs/protocol.md.
package delivery

// Window bounds what may be under way and not yet acknowledged: replay buffer and backpressure at once (D5).
type Window struct {
	Messages uint32
	Bytes    uint32
}

// hasRoom tells whether anything may join.
func (w Window) hasRoom(messages, bytes int) bool {
	return uint64(messages) < uint64(w.Messages) && uint64(bytes) < uint64(w.Bytes)
}

// fits tells whether size bytes more may join; the first item always may.
func (w Window) fits(messages, bytes, size int) bool {
	return messages == 0 || (uint64(messages) < uint64(w.Messages) && uint64(bytes+size) <= uint64(w.Bytes))
}

// queue holds items in order, with what they amount to.
type queue[T any] struct {
	entries []entry[T]
	bytes   int
}

type entry[T any] struct {
	item T
	size int
}

func (q *queue[T]) len() int { return len(q.entries) }

func (q *queue[T]) push(e entry[T]) {
	q.entries = append(q.entries, e)
	q.bytes += e.size
}

func (q *queue[T]) pop() entry[T] {
	first := q.entries[0]
	q.entries[0] = entry[T]{} // the array lives on, its items shall not
	q.entries = q.entries[1:]
	q.bytes -= first.size
	return first
}
