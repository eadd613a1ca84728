// A server that speaks MongoDB's protocol, for tests and for trying MongoDB's store without MongoDB: FerretDB 1.x over
// SQLite files, on loopback, without telemetry.
//
//	ferretdb -listen 127.0.0.1:27017 -data folder
//
// MongoDB makes every change of one document atomic. FerretDB 1.x does not: it reads, filters and writes in separate
// statements (internal/handler/msg_update.go), so that of two conditional updates both could win. Commands that write
// are therefore carried out one at a time, by the gate in gate.go. It prints "ready" once clients are served.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:27017", "host:port to serve clients at")
	data := flag.String("data", "", "folder of the databases; it must exist")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *listen, *data); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve runs until ctx is cancelled, then ends FerretDB in order.
func serve(ctx context.Context, listen, data string) error {
	folder, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	// Its own listener stands on a socket in the data folder, which nobody but the gate knows.
	socket := filepath.Join(folder, "ferretdb.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{Unix: socket},
		Handler:   "sqlite",
		SQLiteURL: "file:" + folder + "/",
	})
	if err != nil {
		return err
	}
	clients, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	gate := newGate(socket)
	go gate.accept(clients)
	context.AfterFunc(ctx, func() { clients.Close() })
	fmt.Println("ready at", clients.Addr())
	return server.Run(ctx)
}
