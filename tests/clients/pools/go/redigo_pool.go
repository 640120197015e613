// redigo's pool: `redigo_pool PORT`. At each line that it prints it holds still until it is sent one.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"
)

type told struct {
	Size   int   `json:"size"`
	Used   int   `json:"used"`
	Opened int64 `json:"opened"`
	Closed int64 `json:"closed"`
	Tested int64 `json:"tested"`
}

var opened, tested int64
var lines = bufio.NewScanner(os.Stdin)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func hold(pool *redis.Pool, used int) {
	stats := pool.Stats()
	must(json.NewEncoder(os.Stdout).Encode(told{
		Size: stats.ActiveCount, Used: used, Opened: opened, Closed: opened - int64(stats.ActiveCount), Tested: tested,
	}))
	if !lines.Scan() {
		panic("the test is gone")
	}
}

func main() {
	pool := &redis.Pool{
		MaxIdle: 3, MaxActive: 8, Wait: true,
		Dial: func() (redis.Conn, error) {
			atomic.AddInt64(&opened, 1)
			return redis.Dial("tcp", "127.0.0.1:"+os.Args[1], redis.DialDatabase(1), redis.DialClientName("pooled"))
		},
		TestOnBorrow: func(c redis.Conn, _ time.Time) error {
			atomic.AddInt64(&tested, 1)
			_, err := c.Do("PING")
			return err
		},
	}
	var workers sync.WaitGroup
	for n := 0; n < 5; n++ {
		workers.Add(1)
		go func(n int) {
			defer workers.Done()
			c := pool.Get()
			_, err := redis.DoWithTimeout(c, time.Minute, "BLPOP", fmt.Sprintf("held:%d", n), 60)
			must(err)
			must(c.Close())
		}(n)
	}
	for pool.ActiveCount() < 5 {
		time.Sleep(5 * time.Millisecond)
	}
	hold(pool, 5)
	other := pool.Get()
	for n := 0; n < 5; n++ {
		_, err := other.Do("RPUSH", fmt.Sprintf("held:%d", n), "x")
		must(err)
	}
	workers.Wait()
	must(other.Close())
	// Three are kept, the others were closed when they were given back.
	hold(pool, 0)
	// Later than any set-up.
	time.Sleep(200 * time.Millisecond)
	for n := 0; n < 10; n++ {
		c := pool.Get()
		_, err := c.Do("INCR", "number")
		must(err)
		must(c.Close())
	}
	hold(pool, 0)
	must(pool.Close())
	hold(pool, 0)
}
