// Command plain holds a plain session with nothing but the generated stubs. It needs a server: `make run` in the root of
// the repository, or the one at the address that it is given.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/session-service/session-service/clients/go/sessionpb"
)

func main() {
	address := "localhost:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	stream, err := pb.NewSessionServiceClient(conn).Attach(context.Background())
	check(err)
	check(stream.Send(&pb.AttachRequest{Control: &pb.AttachRequest_Open{Open: &pb.Open{App: "echo"}}}))
	check(stream.Send(&pb.AttachRequest{Events: []*pb.Event{{Event: "say", Payload: &pb.Event_Json{Json: `"hello"`}}}}))
	check(stream.CloseSend()) // no more events; the answers still come, the last one with closed
	response, err := stream.Recv()
	for ; err == nil; response, err = stream.Recv() {
		for _, command := range response.Commands {
			fmt.Println(command.Command, command.GetSpec().AsInterface())
		}
	}
	if err != io.EOF { // which is the status OK
		check(err)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
