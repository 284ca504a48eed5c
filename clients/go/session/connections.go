package session

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/session-service/session-service/clients/go/sessionpb"
)

// The largest size that gRPC takes for a limit.
const noLimit = math.MaxInt

var errFull = errors.New("the connection carries no more streams")

// connections carries streams over as many connections as they need: what listens there bounds the streams of one, nginx
// 128 and HAProxy 100 of them by default, and gRPC lets further ones wait without a word.
type connections struct {
	dial func() (*grpc.ClientConn, error) // nil where there can only be the one
	wait time.Duration                    // for room on a connection that is up, before a stream goes elsewhere

	mu   sync.Mutex
	all  []*connection
	most int // streams of one connection, as far as has been found out; 0: nothing
}

type connection struct {
	grpc.ClientConnInterface
	taken       int // streams, those that wait included
	established int
}

// attach begins a call. It must be released after its end.
func (c *connections) attach(ctx context.Context) (call grpc.ClientStream, release func(), err error) {
	for {
		conn, err := c.take()
		if err != nil {
			return nil, nil, err
		}
		try, cancel := context.WithCancelCause(ctx)
		begun := make(chan struct{})
		go c.watch(conn, begun, cancel)
		call, err := conn.NewStream(
			try, &sessionpb.SessionService_ServiceDesc.Streams[0], sessionpb.SessionService_Attach_FullMethodName,
			grpc.ForceCodec(rawCodec{}),
			// The server's limits decide (protocol F7).
			grpc.MaxCallRecvMsgSize(noLimit), grpc.MaxCallSendMsgSize(noLimit),
		)
		close(begun)
		established := err == nil
		if established {
			c.count(conn)
		}
		release := func() {
			cancel(nil)
			c.release(conn, established)
		}
		if context.Cause(try) == errFull {
			release()
			continue
		}
		if err != nil {
			release()
			return nil, nil, err
		}
		return call, release, nil
	}
}

// watch sends a stream that waits for room elsewhere, or says what it waits for where there is no elsewhere.
func (c *connections) watch(conn *connection, begun <-chan struct{}, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(c.wait)
	defer tick.Stop()
	for {
		select {
		case <-begun:
			return
		case <-tick.C:
		}
		if !conn.ready() {
			continue
		}
		if c.dial == nil {
			slog.Warn("session: a session waits, for its connection carries no more streams: use another connection, or" +
				" session.NewClient, which opens further ones by itself")
			return
		}
		if c.learn(conn) {
			cancel(errFull)
			return
		}
	}
}

// ready reports whether the connection is up, as far as can be told.
func (c *connection) ready() bool {
	conn, ok := c.ClientConnInterface.(interface{ GetState() connectivity.State })
	return ok && conn.GetState() == connectivity.Ready
}

// take returns a connection that has room, as far as is known.
func (c *connections) take() (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.all {
		if c.most == 0 || conn.taken < c.most {
			conn.taken++
			return conn, nil
		}
	}
	dialed, err := c.dial()
	if err != nil {
		return nil, err
	}
	conn := &connection{ClientConnInterface: dialed, taken: 1}
	c.all = append(c.all, conn)
	return conn, nil
}

func (c *connections) count(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.established++
	if c.most > 0 {
		c.most = max(c.most, conn.established)
	}
}

// learn notes how many streams a connection carries, where one more has waited in vain. It returns false of one that
// carries none: then it is something else that takes its time.
func (c *connections) learn(conn *connection) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.established == 0 {
		return false
	}
	c.most = conn.established
	return true
}

// release gives a stream back. Of the connections that carry none only the first is kept.
func (c *connections) release(conn *connection, established bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn.taken--
	if established {
		conn.established--
	}
	for n, other := range c.all {
		if n > 0 && other == conn && conn.taken == 0 {
			c.all = append(c.all[:n], c.all[n+1:]...)
			conn.close()
			return
		}
	}
}

// close ends the connections that are the client's own. There are no streams any more.
func (c *connections) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dial == nil {
		return nil
	}
	var faults []error
	for _, conn := range c.all {
		faults = append(faults, conn.close())
	}
	c.all = nil
	return errors.Join(faults...)
}

func (c *connection) close() error {
	return c.ClientConnInterface.(*grpc.ClientConn).Close()
}
