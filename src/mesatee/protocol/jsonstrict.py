import json
from typing import Any
from ..errors import Malformed, TooLarge
def parse(data, *, limit=1<<20):
    if len(data)>limit: raise TooLarge("x")
    try: return json.loads(data)
    except ValueError as e: raise Malformed("bad json") from None
def parse_object(data, *, limit=1<<20):
    v=parse(data,limit=limit)
    if not isinstance(v,dict): raise Malformed("not an object")
    return v
def canonical(v): return json.dumps(v,sort_keys=True,separators=(",",":"),ensure_ascii=False,allow_nan=False).encode()
