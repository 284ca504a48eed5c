package session

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/session-service/session-service/clients/go/internal/payload"
	"github.com/session-service/session-service/clients/go/sessionpb"
)

// Credentials is asked at each attach for the metadata that says who is calling, such as
// metadata.Pairs("authorization", "Bearer ..."). Its context ends with the try.
type Credentials func(ctx context.Context) (metadata.MD, error)

// Client opens and resumes the sessions of one server. Any number of goroutines may use it.
type Client struct {
	connections  connections
	plainAddress string // where it speaks plain text to; empty where that is not known, or TLS
	options      options

	mu       sync.Mutex
	sessions map[*Session]struct{}
	closed   bool
}

type options struct {
	transport     credentials.TransportCredentials
	dial          []grpc.DialOption
	credentials   Credentials
	policy        RetryPolicy
	commandWindow *sessionpb.Window
	onAttachment  func(Attachment)
}

// Option changes how a [Client] works.
type Option func(*options)

// WithTransportCredentials says how to secure the connection. Without it that is TLS with the system's roots;
// insecure.NewCredentials() makes it plain text. Only for [NewClient].
func WithTransportCredentials(creds credentials.TransportCredentials) Option {
	return func(o *options) { o.transport = creds }
}

// WithDialOptions adds options of gRPC to those of the client, such as interceptors. Only for [NewClient].
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, dial...) }
}

// WithCredentials says who is calling.
func WithCredentials(credentials Credentials) Option {
	return func(o *options) { o.credentials = credentials }
}

// WithRetryPolicy says how the client comes back after a lost connection.
func WithRetryPolicy(policy RetryPolicy) Option {
	return func(o *options) { o.policy = policy }
}

// WithCommandWindow says how many commands, and bytes of them, may wait for the application. The defaults, for 0, are
// 1,024 and 1 MiB; the server may grant less.
func WithCommandWindow(messages, bytes uint32) Option {
	return func(o *options) { o.commandWindow = &sessionpb.Window{Messages: messages, Bytes: bytes} }
}

// WithOnAttachment has a function called when a session is attached, resumed or has lost its stream. The session waits
// for it, so it must neither block nor call what waits for the session.
func WithOnAttachment(hook func(Attachment)) Option {
	return func(o *options) { o.onAttachment = hook }
}

// NewClient makes a client of the server at target, a name as [grpc.NewClient] takes it: "example.com:50051",
// "unix:/run/sessions.sock". Nothing is connected before a session is opened. It fails where the target cannot be right, such
// as a URL, or a host without a port.
//
// Where a server or a proxy lets no more streams onto a connection, the client makes a further one.
func NewClient(target string, opts ...Option) (*Client, error) {
	client := newClient(opts)
	transport := client.options.transport
	if transport == nil {
		transport = credentials.NewTLS(nil)
	}
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		// A retry policy would replay the first messages of a stream (docs/protocol.md F0).
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// The client comes back by itself: the connection must not sit out delays of its own, two minutes by default.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
		// More often than half of the server's own setting, 20 s by default, would be taken for abuse.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	}, client.options.dial...)
	client.connections.dial = func() (*grpc.ClientConn, error) { return grpc.NewClient(target, dial...) }
	conn, err := client.connections.dial()
	if err != nil {
		return nil, err
	}
	address, err := checkTarget(target, conn.CanonicalTarget())
	if err != nil {
		_ = conn.Close() // it was never used
		return nil, err
	}
	if transport.Info().SecurityProtocol == "insecure" {
		client.plainAddress = address
	}
	client.connections.all = []*connection{{ClientConnInterface: conn}}
	return client, nil
}

// NewClientFromConn makes a client that shares a connection. The caller closes that after the client, and sees to it
// that no retry policy applies to its streams. Sessions that find no room on it wait, and say so in the default logger of
// [log/slog].
func NewClientFromConn(conn grpc.ClientConnInterface, opts ...Option) *Client {
	client := newClient(opts)
	client.connections.all = []*connection{{ClientConnInterface: conn}}
	return client
}

func newClient(opts []Option) *Client {
	client := &Client{sessions: map[*Session]struct{}{}}
	client.options.commandWindow = &sessionpb.Window{}
	for _, option := range opts {
		option(&client.options)
	}
	client.options.policy = client.options.policy.withDefaults()
	client.connections.wait = min(time.Second, client.options.policy.AttachTimeout/4)
	return client
}

// Close leaves all sessions as they are, without a word to the server, which keeps those that are not closed for their
// resume window. Calls that wait for them return [ErrEnded]. Opens that were given up are closed at the server first, which
// takes 5 seconds at most.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	sessions := make([]*Session, 0, len(c.sessions))
	for s := range c.sessions {
		sessions = append(sessions, s)
	}
	c.mu.Unlock()
	for _, s := range sessions {
		s.leave()
	}
	for _, s := range sessions {
		<-s.done
	}
	return c.connections.close()
}

// OpenOption changes what [Client.Open] asks for.
type OpenOption func(*opening)

type opening struct {
	request *sessionpb.Open
	params  map[string]any
}

// WithParams gives the app its parameters: JSON values, whose whole numbers stay within 2^53.
func WithParams(params map[string]any) OpenOption {
	return func(o *opening) { o.params = params }
}

// WithHeaders gives the HTTP headers of the person's browser, for the session's information; see ParseSessionInfo.
func WithHeaders(headers map[string]string) OpenOption {
	return func(o *opening) { o.request.Headers = headers }
}

// WithResumeWindow says for how long the server shall keep the session without a connection. The server may cap it.
func WithResumeWindow(window time.Duration) OpenOption {
	return func(o *opening) { o.request.ResumeWindow = durationpb.New(window) }
}

// WithRequestID replaces the random UUID that makes it safe to repeat this open: another process that opens the same app
// with the same id gets the same session, as long as no command has been acknowledged. It is as good as a password.
func WithRequestID(id string) OpenOption {
	return func(o *opening) { o.request.RequestId = id }
}

// Plain makes the session a plain one: it ends with its stream, and nothing is sent twice.
func Plain() OpenOption {
	return func(o *opening) { o.request.Resumable = false }
}

// Open starts an app and returns once its session is attached. The context is that of the opening alone. If it is done
// first, the session is closed in the background, which takes 5 seconds at most, and the error tells how the last try
// ended, too.
//
// It fails with a [*PayloadError] where the parameters cannot be carried, a [*RefusedError] where the server said no or
// trying again would not help, and a [*LostError] where it could not be reached in time.
func (c *Client) Open(ctx context.Context, app string, opts ...OpenOption) (*Session, error) {
	o := opening{request: &sessionpb.Open{
		App:           app,
		Resumable:     true,
		CommandFormat: sessionpb.PayloadFormat_PAYLOAD_FORMAT_JSON,
	}}
	for _, option := range opts {
		option(&o)
	}
	params, err := payload.EncodeParams(o.params)
	if err != nil {
		return nil, asPayloadError(err)
	}
	o.request.Params = params
	if o.request.Resumable {
		if o.request.RequestId == "" {
			o.request.RequestId = newUUID()
		}
		o.request.ClientId = newUUID()
		o.request.CommandWindow = c.options.commandWindow
	}
	if _, err := proto.Marshal(o.request); err != nil { // a text that is no UTF-8
		return nil, &PayloadError{Path: "open", Message: err.Error()}
	}
	return c.start(ctx, newConversation(o.request))
}

// Resume goes on with a session that another process, or this one, has left. Commands after position.Received come
// again. Events after what the server has taken over died with the other process: [Session.TakenOver] says where to go
// on. It fails as Open does.
func (c *Client) Resume(ctx context.Context, position Position) (*Session, error) {
	if !utf8.ValidString(position.SessionID) || !utf8.ValidString(position.Token) {
		return nil, &PayloadError{Path: "position", Message: "the session's id or token is no UTF-8"}
	}
	return c.start(ctx, conversationAt(position, c.options.commandWindow, newUUID()))
}

func (c *Client) start(ctx context.Context, conversation *conversation) (*Session, error) {
	s := newSession(c, conversation)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, fmt.Errorf("%w: the client is closed", ErrEnded)
	}
	c.sessions[s] = struct{}{}
	go s.supervise()
	c.mu.Unlock()
	if err := s.waitAttached(ctx); err != nil {
		s.giveUp()
		return nil, err
	}
	return s, nil
}

func (c *Client) forget(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, s)
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var id [16]byte
	rand.Read(id[:]) // which never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
