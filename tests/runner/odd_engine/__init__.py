"""An engine whose cells misbehave on demand, for the tests of the worker: the seed says how.

0-99   a quiet cell: 20 steps of 10 ms
100    kill -9 of its own process      101  os._exit(3)       102  prints garbage to every output
103    a segfault                      104  sys.exit(5)       105  raises
158    runs out of memory the first time, 159 always (a card holds three of either, by card_needs)
106    is predicted not to fit into memory, 107 may not (predict_cell.py); both run as the quiet ones do
108    hangs                           109  stops its own process (SIGSTOP)
110    takes memory without end
111-119 write 300 kB
200+   a slow cell: (seed - 200) seconds, in steps of 50 ms
"""
