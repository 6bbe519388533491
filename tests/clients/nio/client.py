"""matrix-nio, driven by the test program.

Standard input brings calls, `{"id":1,"method":"whoami","params":{}}`, one a line. Standard output has a line for each,
`{"id":1,"result":..}` or `{"id":1,"error":{"status":..,"errcode":..}}`, and one for each event:
`{"method":"logged_out","params":{..}}`. The process ends when standard input does.
"""

import asyncio
import io
import json
import os
import sys
import threading

import nio


def tell(message):
    print(json.dumps(message), flush=True)


def described(error):
    response = error.transport_response
    return {
        "status": response and response.status,
        "errcode": error.status_code,
        "retry_after": response and response.headers.get("Retry-After"),
        "message": str(error),
    }


class Failed(Exception):
    """A call that the server refused."""


def succeeded(response):
    if isinstance(response, nio.ErrorResponse):
        tell_if_logged_out(response)
        raise Failed(response)
    return response


def tell_if_logged_out(error):
    """The library leaves it to the application to see this."""
    is_logged_out = error.status_code == "M_UNKNOWN_TOKEN"
    if is_logged_out:
        tell({"method": "logged_out", "params": described(error)})
    return is_logged_out


class Methods:
    async def begin(self, url, user, device, token):
        self.client = nio.AsyncClient(url, user, device_id=device)
        self.client.user_id = user
        self.client.access_token = token
        self.client.add_event_callback(self.on_message, nio.RoomMessageText)
        self.client.add_response_callback(self.on_synced, nio.SyncResponse)
        self.client.add_response_callback(self.on_sync_error, nio.SyncError)

    async def on_message(self, room, event):
        params = {"room": room.room_id, "sender": event.sender, "body": event.body}
        tell({"method": "message", "params": params})

    async def on_synced(self, _):
        tell({"method": "sync", "params": {"state": "SYNCING"}})

    async def on_sync_error(self, error):
        tell({"method": "sync", "params": {"state": "ERROR", "error": described(error)}})
        if tell_if_logged_out(error):
            self.client.stop_sync_forever()

    async def sync(self):
        # It asks again at once when it was refused.
        forever = self.client.sync_forever(timeout=30_000, loop_sleep_time=100)
        self.syncing = asyncio.create_task(forever)

    async def whoami(self):
        found = succeeded(await self.client.whoami())
        return {"user_id": found.user_id, "device_id": found.device_id}

    async def create_room(self, invite):
        preset = nio.RoomPreset.private_chat
        return succeeded(await self.client.room_create(preset=preset, invite=[invite])).room_id

    async def join(self, room):
        succeeded(await self.client.join(room))

    async def send(self, room, body):
        content = {"msgtype": "m.text", "body": body}
        sent = await self.client.room_send(room, "m.room.message", content)
        return succeeded(sent).event_id

    async def upload(self, text):
        content = text.encode()
        uploaded, _ = await self.client.upload(
            io.BytesIO(content), "text/plain", "text.txt", filesize=len(content)
        )
        return succeeded(uploaded).content_uri

    async def download(self, uri):
        return succeeded(await self.client.download(uri)).body.decode()

    async def logout(self):
        succeeded(await self.client.logout())

    async def logout_all(self):
        succeeded(await self.client.logout(all_devices=True))


async def answer(methods, call):
    try:
        result = await getattr(methods, call["method"])(**call["params"])
        tell({"id": call["id"], "result": result})
    except Failed as failed:
        tell({"id": call["id"], "error": described(failed.args[0])})
    except Exception as error:
        tell({"id": call["id"], "error": {"message": repr(error)}})


async def main():
    methods = Methods()
    loop = asyncio.get_running_loop()
    lines = asyncio.Queue()

    def read():
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        call = await lines.get()
        asyncio.create_task(answer(methods, call))


asyncio.run(main())
