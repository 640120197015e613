// gomemcache: `gomemcache PORT`. It speaks the text dialect.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/bradfitz/gomemcache/memcache"
)

func must(held bool, what string, told ...interface{}) {
	if !held {
		fmt.Fprintln(os.Stderr, what, told)
		os.Exit(1)
	}
}

func main() {
	client := memcache.New("127.0.0.1:" + os.Args[1])
	client.Timeout = 10e9
	for n := 1; n <= 100; n++ {
		key := fmt.Sprintf("k%d", n)
		item := memcache.Item{Key: key, Value: []byte(strings.Repeat("x", n)), Expiration: 60}
		must(client.Set(&item) == nil, "set", key)
		found, err := client.Get(key)
		must(err == nil && len(found.Value) == n, "get", key, err)
		_, err = client.Get("absent" + key)
		must(err == memcache.ErrCacheMiss, "get of what is absent", err)
	}
	found, err := client.GetMulti([]string{"k1", "k2", "absent", "k99"})
	must(err == nil && len(found) == 3, "get of several", err)
	must(client.Add(&memcache.Item{Key: "k1"}) == memcache.ErrNotStored, "add")
	item, _ := client.Get("k1")
	item.Value = []byte("new")
	must(client.CompareAndSwap(item) == nil, "cas")
	must(client.CompareAndSwap(item) == memcache.ErrCASConflict, "cas of what was changed")
	must(client.Set(&memcache.Item{Key: "count", Value: []byte("41")}) == nil, "set")
	told, err := client.Increment("count", 1)
	must(err == nil && told == 42, "incr", err)
	told, err = client.Decrement("count", 2)
	must(err == nil && told == 40, "decr", err)
	_, err = client.Increment("absent", 1)
	must(err == memcache.ErrCacheMiss, "incr of what is absent", err)
	must(client.Touch("k1", 100) == nil, "touch")
	must(client.Touch("absent", 100) == memcache.ErrCacheMiss, "touch of what is absent")
	must(client.Delete("k1") == nil, "delete")
	must(client.Delete("k1") == memcache.ErrCacheMiss, "delete of what is absent")
}
