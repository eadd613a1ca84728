package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
)

// The frame of MongoDB's wire protocol: length, request id, response to, opcode; int32 each, little endian.
const (
	headerBytes     = 16
	largestMessage  = 48_000_000
	opMsg           = 2013
	flagMoreToCome  = 1 << 1
	firstFieldName  = headerBytes + 4 + 1 + 4 + 1 // behind the flags, the section's kind, the document's length, a type
	lengthOfOpcode  = 4
	positionOpcode  = 12
	positionOfFlags = headerBytes
)

// Commands that change documents or what holds them: each begins its message.
var writers = [][]byte{
	[]byte("insert"), []byte("update"), []byte("delete"), []byte("findAndModify"), []byte("findandmodify"),
	[]byte("create"), []byte("createIndexes"), []byte("drop"), []byte("dropDatabase"), []byte("dropIndexes"),
}

// gate passes messages between clients and the server behind it, those that write one at a time.
type gate struct {
	socket  string
	writing sync.Mutex
}

func newGate(socket string) *gate { return &gate{socket: socket} }

// accept serves clients until the listener is closed.
func (g *gate) accept(clients net.Listener) {
	for {
		client, err := clients.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			slog.Warn("a client could not connect", "error", err)
			continue
		}
		go func() {
			if err := g.serve(client); err != nil {
				slog.Warn("a connection ended", "error", err)
			}
		}()
	}
}

// serve passes one client's requests on, each with its reply, until either side closes.
func (g *gate) serve(client net.Conn) error {
	defer client.Close()
	server, err := net.Dial("unix", g.socket)
	if err != nil {
		return err
	}
	defer server.Close()
	for {
		request, err := readMessage(client)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		reply, err := g.exchange(server, request)
		if err != nil {
			return err
		}
		if _, err := client.Write(reply); err != nil {
			return err
		}
	}
}

// exchange returns the server's reply; nothing for a request that wants none.
func (g *gate) exchange(server net.Conn, request []byte) ([]byte, error) {
	if writes(request) {
		g.writing.Lock()
		defer g.writing.Unlock()
	}
	if _, err := server.Write(request); err != nil {
		return nil, err
	}
	if opcode(request) == opMsg && binary.LittleEndian.Uint32(request[positionOfFlags:])&flagMoreToCome != 0 {
		return nil, nil
	}
	return readMessage(server)
}

// writes tells whether the command, whose name is the first field of its document, changes anything.
func writes(message []byte) bool {
	if opcode(message) != opMsg || len(message) < firstFieldName {
		return false
	}
	name, _, _ := bytes.Cut(message[firstFieldName:], []byte{0})
	for _, writer := range writers {
		if bytes.Equal(name, writer) {
			return true
		}
	}
	return false
}

func opcode(message []byte) uint32 {
	return binary.LittleEndian.Uint32(message[positionOpcode : positionOpcode+lengthOfOpcode])
}

func readMessage(from io.Reader) ([]byte, error) {
	header := make([]byte, headerBytes)
	if _, err := io.ReadFull(from, header); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(header)
	if length < headerBytes || length > largestMessage {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	message := make([]byte, length)
	copy(message, header)
	_, err := io.ReadFull(from, message[headerBytes:])
	return message, err
}
