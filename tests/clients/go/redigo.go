// redigo: `redigo PORT [ten_thousand]`. It prints what a program knows of its own traffic.
//
// The value of `key:…:N` is N bytes long, so that a reply given to the wrong request shows; `absent:…` never exists.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/gomodule/redigo/redis"
)

type counts map[string]int

// The members of the line that the test reads.
type told struct {
	Hits    counts           `json:"hits"`
	Misses  counts           `json:"misses"`
	Scripts counts           `json:"scripts"`
	Batches map[string][]int `json:"batches"`
	Pushes  int              `json:"pushes"`
}

var known = told{counts{}, counts{}, counts{}, map[string][]int{"PIPELINE": {}, "MULTI": {}}, 0}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func is(length int, reply interface{}, err error) {
	text, err := redis.String(reply, err)
	must(err)
	if len(text) != length {
		panic(fmt.Sprintf("%d bytes instead of %d", len(text), length))
	}
}

func value(length int) string { return strings.Repeat("v", length) }

func plain(c redis.Conn) {
	for n := 1; n <= 200; n++ {
		key := fmt.Sprintf("key:%d", n)
		_, err := c.Do("SET", key, value(n), "EX", 600)
		must(err)
		reply, err := c.Do("GET", key)
		is(n, reply, err)
		reply, err = c.Do("GET", fmt.Sprintf("absent:%d", n))
		must(err)
		if reply != nil {
			panic("a value of what is absent")
		}
		known.Hits["GET"]++
		known.Misses["GET"]++
	}
	_, err := c.Do("MGET", "key:3", "absent:1", "key:50")
	must(err)
	known.Hits["MGET"] += 2
	known.Misses["MGET"]++
	if _, err := c.Do("LPUSH", "key:1", "x"); err == nil {
		panic("a list in a string")
	}
}

// Send only fills a buffer of 4096 bytes, Flush sends it, Receive reads one reply.
func pipelines(c redis.Conn) {
	for round := 1; round <= 10; round++ {
		for n := 1; n <= 10; n++ {
			key := fmt.Sprintf("key:%d:%d", round, n*7)
			must(c.Send("SET", key, value(n*7)))
			must(c.Send("GET", key))
			must(c.Send("GET", fmt.Sprintf("absent:%d", n)))
		}
		must(c.Flush())
		for n := 1; n <= 10; n++ {
			_, err := c.Receive()
			must(err)
			reply, err := c.Receive()
			is(n*7, reply, err)
			reply, err = c.Receive()
			must(err)
			if reply != nil {
				panic("a value of what is absent")
			}
		}
		known.Hits["GET"] += 10
		known.Misses["GET"] += 10
		known.Batches["PIPELINE"] = append(known.Batches["PIPELINE"], 30)
	}
	// Do sends what is in the buffer together with its own command.
	must(c.Send("SET", "key:sent:5", value(5)))
	reply, err := c.Do("GET", "key:sent:5")
	is(5, reply, err)
	known.Hits["GET"]++
	known.Batches["PIPELINE"] = append(known.Batches["PIPELINE"], 2)
}

func multi(c redis.Conn) {
	for round := 1; round <= 10; round++ {
		must(c.Send("MULTI"))
		for n := 1; n <= 10; n++ {
			key := fmt.Sprintf("key:multi:%d:%d", round, n*3)
			must(c.Send("SET", key, value(n*3)))
			must(c.Send("GET", key))
		}
		answers, err := redis.Values(c.Do("EXEC"))
		must(err)
		for n := 1; n <= 10; n++ {
			is(n*3, answers[n*2-1], nil)
		}
		known.Hits["GET"] += 10
		known.Batches["MULTI"] = append(known.Batches["MULTI"], 20)
	}
}

func scripts(c redis.Conn) {
	read := redis.NewScript(1, "return redis.call('get', KEYS[1])")
	for n := 1; n <= 10; n++ {
		// The first is EVALSHA that fails, and then EVAL.
		reply, err := read.Do(c, fmt.Sprintf("key:%d", n))
		is(n, reply, err)
		known.Scripts["GET"]++
	}
}

func pool(port string) {
	pool := &redis.Pool{
		MaxIdle: 3, MaxActive: 3, Wait: true,
		Dial: func() (redis.Conn, error) { return redis.Dial("tcp", "127.0.0.1:"+port) },
	}
	var workers sync.WaitGroup
	for worker := 1; worker <= 8; worker++ {
		workers.Add(1)
		go func(worker int) {
			defer workers.Done()
			for n := 1; n <= 50; n++ {
				c := pool.Get()
				key := fmt.Sprintf("key:pool:%d:%d", worker, n*worker)
				_, err := c.Do("SET", key, value(n*worker))
				must(err)
				reply, err := c.Do("GET", key)
				is(n*worker, reply, err)
				must(c.Close())
			}
		}(worker)
	}
	workers.Wait()
	known.Hits["GET"] += 8 * 50
	must(pool.Close())
}

func published(c redis.Conn, port string) {
	connection, err := redis.Dial("tcp", "127.0.0.1:"+port)
	must(err)
	listener := redis.PubSubConn{Conn: connection}
	must(listener.Subscribe("news", "weather"))
	for n := 0; n < 2; n++ {
		_ = listener.Receive().(redis.Subscription)
	}
	for n := 1; n <= 50; n++ {
		_, err := c.Do("PUBLISH", "news", value(n))
		must(err)
		if len(listener.Receive().(redis.Message).Data) != n {
			panic("another message")
		}
		known.Pushes++
	}
	must(listener.Unsubscribe("news", "weather"))
	for n := 0; n < 2; n++ {
		_ = listener.Receive().(redis.Subscription)
	}
	must(listener.Close())
}

// What is sent while nothing is received.
func tenThousand(c redis.Conn) {
	length := func(n int) int { return 1 + n*7919%509 }
	key := func(n int) string { return fmt.Sprintf("key:%d:%d", n, length(n)) }
	for _, command := range []string{"SET", "GET"} {
		for n := 0; n < 10000; n++ {
			arguments := []interface{}{key(n), value(length(n))}
			if command == "GET" {
				arguments = arguments[:1]
			}
			must(c.Send(command, arguments...))
		}
		must(c.Flush())
		for n := 0; n < 10000; n++ {
			reply, err := c.Receive()
			if command == "GET" {
				is(length(n), reply, err)
			}
		}
	}
	known.Hits["GET"] += 10000
	plain(c)
	must(c.Close())
	// A goroutine may change its thread, which ends a batch.
	known.Batches = nil
}

func main() {
	port := os.Args[1]
	c, err := redis.Dial("tcp", "127.0.0.1:"+port)
	must(err)
	if len(os.Args) > 2 {
		tenThousand(c)
		must(json.NewEncoder(os.Stdout).Encode(known))
		return
	}
	plain(c)
	pipelines(c)
	multi(c)
	scripts(c)
	pool(port)
	published(c, port)
	must(c.Close())
	must(json.NewEncoder(os.Stdout).Encode(known))
}
