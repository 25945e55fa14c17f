"""httpx for servers on loopback.

`httpx.get` and its like read all certificates of the system for each request, 20 ms of CPU time,
and tests ask until something has happened.
"""

import httpx

# A connection for each request: a server that tests stop must not wait for idle ones.
_client = httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0))

get = _client.get
head = _client.head
post = _client.post
delete = _client.delete
