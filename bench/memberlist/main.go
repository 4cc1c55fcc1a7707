// A fleet of memberlist nodes in one process, for bench/gossip.py: LAN defaults, AES-256, one broadcast delegate each.
//
// Commands come on standard input and answers go to standard output, one JSON object a line; they are those of
// bench/gossip_fleet.py. Built against Debian's golang-github-hashicorp-memberlist-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o out/bench-memberlist ./bench/memberlist
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	mathrand "math/rand"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// What the nodes have told since the command began; one for all of them, as they share one process.
type observed struct {
	sync.Mutex
	copies  map[uint64]int // update -> nodes that have it, its origin not counted
	last    map[uint64]time.Time
	down    int // "member is gone", by any node
	heardBy chan struct{}
}

func (o *observed) arrived(update uint64) {
	o.Lock()
	o.copies[update]++
	o.last[update] = time.Now()
	o.Unlock()
	o.tell()
}

func (o *observed) tell() {
	select {
	case o.heardBy <- struct{}{}:
	default:
	}
}

type node struct {
	list     *memberlist.Memberlist
	queue    *memberlist.TransmitLimitedQueue
	observed *observed
	mu       sync.Mutex
	seen     map[uint64]bool
}

type update []byte

func (u update) Invalidates(memberlist.Broadcast) bool { return false }
func (u update) Message() []byte                       { return u }
func (u update) Finished()                             {}

func (n *node) NodeMeta(int) []byte           { return nil }
func (n *node) LocalState(bool) []byte        { return nil }
func (n *node) MergeRemoteState([]byte, bool) {}
func (n *node) GetBroadcasts(overhead, limit int) [][]byte {
	return n.queue.GetBroadcasts(overhead, limit)
}

// An update that is new is passed on, as serf does it.
func (n *node) NotifyMsg(message []byte) {
	id := binary.BigEndian.Uint64(message)
	n.mu.Lock()
	known := n.seen[id]
	n.seen[id] = true
	n.mu.Unlock()
	if !known {
		n.queue.QueueBroadcast(update(append([]byte(nil), message...)))
		n.observed.arrived(id)
	}
}

func (n *node) NotifyJoin(*memberlist.Node)   {}
func (n *node) NotifyUpdate(*memberlist.Node) {}
func (n *node) NotifyLeave(*memberlist.Node) {
	n.observed.Lock()
	n.observed.down++
	n.observed.Unlock()
	n.observed.tell()
}

func (n *node) publish(id uint64, size int) {
	message := make([]byte, size)
	rand.Read(message)
	binary.BigEndian.PutUint64(message, id)
	n.mu.Lock()
	n.seen[id] = true
	n.mu.Unlock()
	n.queue.QueueBroadcast(update(message))
}

type fleet struct {
	nodes    []*node
	key      []byte
	observed *observed
	updates  uint64
}

func address(index int) string { return fmt.Sprintf("127.22.%d.%d", index/200, index%200+1) }

func (f *fleet) make(index int) (*node, error) {
	n := &node{observed: f.observed, seen: map[uint64]bool{}}
	config := memberlist.DefaultLANConfig()
	config.Name = fmt.Sprintf("n%04d", index)
	config.BindAddr, config.AdvertiseAddr = address(index), address(index)
	config.SecretKey = f.key
	config.Delegate, config.Events = n, n
	config.Logger = log.New(io.Discard, "", 0)
	n.queue = &memberlist.TransmitLimitedQueue{NumNodes: func() int { return n.list.NumMembers() }, RetransmitMult: config.RetransmitMult}
	list, err := memberlist.Create(config)
	n.list = list
	return n, err
}

// Each node joins by the three that come after it, as the managers of swarmnet give out seeds.
func (f *fleet) start(size int, atOnce bool, patience time.Duration) (map[string]any, error) {
	f.nodes = nil
	f.observed = &observed{copies: map[uint64]int{}, last: map[uint64]time.Time{}, heardBy: make(chan struct{}, 1)}
	for index := 0; index < size; index++ {
		made, err := f.make(index)
		if err != nil {
			return nil, err
		}
		f.nodes = append(f.nodes, made)
	}
	began := time.Now()
	var joining sync.WaitGroup
	for index, each := range f.nodes {
		joining.Add(1)
		join := func(index int, each *node) {
			defer joining.Done()
			var seeds []string
			for after := 1; after <= 3; after++ {
				seeds = append(seeds, address((index+after)%size))
			}
			each.list.Join(seeds)
		}
		if atOnce {
			go join(index, each)
		} else {
			join(index, each)
		}
	}
	joining.Wait()
	for !f.complete() {
		if time.Since(began) > patience {
			return map[string]any{"s": nil, "false_deaths": f.observed.down}, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return map[string]any{"s": time.Since(began).Seconds(), "false_deaths": f.observed.down}, nil
}

func (f *fleet) complete() bool {
	for _, each := range f.nodes {
		if each.list.NumMembers() != len(f.nodes) {
			return false
		}
	}
	return true
}

func (f *fleet) idle(seconds float64) map[string]any {
	before := spent()
	time.Sleep(time.Duration(seconds * float64(time.Second)))
	return before.since()
}

// One update; the answer comes when the window is over.
func (f *fleet) update(size int, window float64) map[string]any {
	f.updates++
	id, before := f.updates, spent()
	began := time.Now()
	f.nodes[mathrand.Intn(len(f.nodes))].publish(id, size)
	time.Sleep(time.Until(began.Add(time.Duration(window * float64(time.Second)))))
	answer := before.since()
	f.observed.Lock()
	defer f.observed.Unlock()
	answer["s"] = nil
	if f.observed.copies[id] == len(f.nodes)-1 {
		answer["s"] = f.observed.last[id].Sub(began).Seconds()
	}
	return answer
}

// Many updates, by random nodes; then some seconds in which the last ones arrive.
func (f *fleet) rate(size int, perS, seconds, graceS float64) map[string]any {
	before, began := spent(), time.Now()
	first, count := f.updates+1, int(perS*seconds)
	for sent := 0; sent < count; sent++ {
		time.Sleep(time.Until(began.Add(time.Duration(float64(sent) / perS * float64(time.Second)))))
		f.updates++
		f.nodes[mathrand.Intn(len(f.nodes))].publish(f.updates, size)
	}
	time.Sleep(time.Duration(graceS * float64(time.Second)))
	answer := before.since()
	f.observed.Lock()
	defer f.observed.Unlock()
	everywhere := 0
	for id := first; id <= f.updates; id++ {
		if f.observed.copies[id] == len(f.nodes)-1 {
			everywhere++
		}
	}
	answer["offered"], answer["everywhere"] = count, everywhere
	return answer
}

// The node falls silent without a word.
func (f *fleet) kill(patience time.Duration) (map[string]any, error) {
	chosen := mathrand.Intn(len(f.nodes))
	victim := f.nodes[chosen]
	f.nodes = append(f.nodes[:chosen], f.nodes[chosen+1:]...)
	f.observed.Lock()
	f.observed.down = 0
	f.observed.Unlock()
	began := time.Now()
	if err := victim.list.Shutdown(); err != nil {
		return nil, err
	}
	late := time.After(patience)
	for {
		f.observed.Lock()
		known := f.observed.down >= len(f.nodes)
		f.observed.Unlock()
		if known {
			return map[string]any{"s": time.Since(began).Seconds()}, nil
		}
		select {
		case <-f.observed.heardBy:
		case <-late:
			return map[string]any{"s": nil}, nil
		}
	}
}

func (f *fleet) stop() map[string]any {
	for _, each := range f.nodes {
		each.list.Shutdown()
	}
	f.nodes = nil
	return map[string]any{}
}

type usage struct{ bytes, datagrams, cpuS float64 }

// What this process has used, and what has gone over the loopback of its network namespace, in which it is alone.
func spent() usage {
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	cpu := float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
	raw, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		log.Fatal(err)
	}
	for _, each := range strings.Split(string(raw), "\n") {
		fields := strings.Fields(each)
		if len(fields) > 10 && fields[0] == "lo:" {
			var bytes, packets float64
			fmt.Sscan(fields[9], &bytes)
			fmt.Sscan(fields[10], &packets)
			return usage{bytes, packets, cpu}
		}
	}
	log.Fatal("no loopback")
	return usage{}
}

func (u usage) since() map[string]any {
	now := spent()
	return map[string]any{"bytes": now.bytes - u.bytes, "packets": now.datagrams - u.datagrams, "cpu_s": now.cpuS - u.cpuS}
}

type command struct {
	Do       string
	Nodes    int
	AtOnce   bool    `json:"at_once"`
	Patience float64 `json:"patience_s"`
	Seconds  float64
	Size     int
	PerS     float64 `json:"per_s"`
	GraceS   float64 `json:"grace_s"`
}

func (f *fleet) do(c command) (map[string]any, error) {
	patience := time.Duration(c.Patience * float64(time.Second))
	switch c.Do {
	case "start":
		return f.start(c.Nodes, c.AtOnce, patience)
	case "idle":
		return f.idle(c.Seconds), nil
	case "update":
		return f.update(c.Size, c.Seconds), nil
	case "rate":
		return f.rate(c.Size, c.PerS, c.Seconds, c.GraceS), nil
	case "kill":
		return f.kill(patience)
	case "stop":
		return f.stop(), nil
	}
	return nil, fmt.Errorf("unknown command %q", c.Do)
}

func main() {
	mathrand.Seed(time.Now().UnixNano())
	key := make([]byte, 32)
	rand.Read(key)
	f := &fleet{key: key}
	answers := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			log.Fatal(err)
		}
		answer, err := f.do(c)
		if err != nil {
			log.Fatal(err)
		}
		answers.Encode(answer)
	}
}
