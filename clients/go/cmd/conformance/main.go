// Command conformance is the driver that the conformance kit (clients/conformance) tests this client by: it carries out
// the instructions that come on its stdin and writes what it observes to its stdout, as
// protos/session_service/conformance/v1 says.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/session-service/session-service/clients/go/internal/conformancepb"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("conformance: ")
	d := &driver{}
	defer d.stop()
	if err := serve(context.Background(), d, os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// serve answers instructions until there are no more.
func serve(ctx context.Context, d *driver, in io.Reader, out io.Writer) error {
	for {
		instruction := &conformancepb.Instruction{}
		if err := read(in, instruction); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := write(out, d.carryOut(ctx, instruction)); err != nil {
			return err
		}
	}
}

func read(in io.Reader, message proto.Message) error {
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return err
	}
	data := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(in, data); err != nil {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	return proto.Unmarshal(data, message)
}

func write(out io.Writer, message proto.Message) error {
	data, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	// In one write: the runner may wait for all of it.
	_, err = out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}
