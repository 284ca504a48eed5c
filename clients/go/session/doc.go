// Package session is a client for session-service: it reconnects by itself, and every event and every command arrives
// exactly once and in order.
//
//	client, err := session.NewClient("localhost:50051", session.WithTransportCredentials(insecure.NewCredentials()))
//	...
//	defer client.Close()
//	s, err := client.Open(ctx, "greet")
//	...
//	for cmd := range s.Commands(ctx) {
//		...
//		err = s.SendTo(ctx, cmd.TaskID, "answer", 36)
//	}
//	if err := s.Err(); err != nil {
//		...
//	}
//
// # Sessions
//
// A session is one run of an app on the server. The app's commands come down, in [Session.Commands] or one by one from
// [Session.Receive]; events go up with [Session.Send]. A session outlives its connections: when one breaks, the client
// comes back with growing random delays ([RetryPolicy]), and both sides go on where they were.
//
// A command is acknowledged when the next one is asked for, or the session is closed or detached. What an application
// had not done with when it died comes again to whoever resumes: save a [Position] and hand it to [Client.Resume].
//
// A context ends only the call that it was given to. The session is then as usable as before. [Session.Close] ends it
// behind the events that were sent; [Session.CloseNow] cancels the app; [Session.Detach] leaves it running. A session
// that is left without any of these runs on until nobody has been attached for its resume window, so defer one. An open
// whose context is done first is closed in the background; [Client.Close] waits for that.
//
// # Payloads
//
// An event's data is one of these; what cannot be carried exactly is a [PayloadError], and the session goes on.
//
//   - []byte: bytes.
//   - A [proto.Message]: a typed message; an [anypb.Any] as it is.
//   - Anything else: a JSON value, as [encoding/json] writes it. Refused are text that is no UTF-8, a NaN or an infinity,
//     nesting beyond 200 levels, and whole numbers beyond 64 bits. encoding/json writes a float64 below 1e21 that has no
//     fraction as a whole number, so the app gets 36.0 as the integer 36, and 1e20 is refused.
//
// What a command has brought is in [Command.Spec], as []byte, a [proto.Message] or a [json.RawMessage]. [Command.Decode]
// reads JSON into a Go value: exact into an int64 or uint64, and as a [json.Number] into an any.
//
// [proto.Message]: https://pkg.go.dev/google.golang.org/protobuf/proto#Message
// [anypb.Any]: https://pkg.go.dev/google.golang.org/protobuf/types/known/anypb#Any
package session
