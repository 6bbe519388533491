// matrix-js-sdk, driven by the test program.
//
// Standard input brings calls, `{"id":1,"method":"whoami","params":{}}`, one a line. Standard output has a line for each,
// `{"id":1,"result":..}` or `{"id":1,"error":{"status":..,"errcode":..}}`, and one for each event:
// `{"method":"logged_out","params":{..}}`. The process ends when standard input does.

import { createInterface } from "node:readline";

// Standard output is for the test program alone.
for (const level of ["debug", "info", "log", "trace", "warn"]) {
    console[level] = console.error;
}
const sdk = await import("matrix-js-sdk");

function tell(message) {
    process.stdout.write(`${JSON.stringify(message)}\n`);
}

function tellOf(method, params) {
    tell({ method, params });
}

let client;

const methods = {
    // `oauth_client` and `refresh_token` only for a session that can be refreshed.
    async begin({ url, user, device, token, refresh_token, oauth_client }) {
        client = sdk.createClient({
            baseUrl: url,
            userId: user,
            deviceId: device,
            accessToken: token,
            refreshToken: refresh_token,
            oauthClientId: oauth_client,
            onTokenRefresh: async () => tellOf("refreshed", {}),
        });
        client.on(sdk.HttpApiEvent.SessionLoggedOut, (error) => tellOf("logged_out", described(error)));
        client.on(sdk.ClientEvent.Sync, (state, _, data) =>
            tellOf("sync", { state, error: data?.error && described(data.error) }));
        client.on(sdk.RoomEvent.Timeline, (event, room) => {
            if (event.getType() === "m.room.message") {
                tellOf("message", { room: room.roomId, sender: event.getSender(), body: event.getContent().body });
            }
        });
    },
    async sync() {
        await client.startClient({ pollTimeout: 30_000 });
    },
    async whoami() {
        return client.whoami();
    },
    async create_room({ invite }) {
        return (await client.createRoom({ preset: "private_chat", invite: [invite] })).room_id;
    },
    async join({ room }) {
        await client.joinRoom(room);
    },
    async send({ room, body }) {
        return (await client.sendMessage(room, { msgtype: "m.text", body })).event_id;
    },
    async upload({ text }) {
        return (await client.uploadContent(new Blob([text], { type: "text/plain" }))).content_uri;
    },
    // The SDK makes the address, an application gets it with its token.
    async download({ uri }) {
        const url = client.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true);
        const response = await fetch(url, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } });
        if (!response.ok) {
            throw Object.assign(new Error("download"), { httpStatus: response.status });
        }
        return response.text();
    },
    async logout() {
        await client.logout();
    },
    async logout_all() {
        await client.http.authedRequest("POST", "/logout/all");
    },
};

function described(error) {
    return {
        status: error.httpStatus,
        errcode: error.errcode,
        retry_after: error.httpHeaders?.get("Retry-After"),
        message: String(error.stack ?? error),
    };
}

async function answer({ id, method, params }) {
    try {
        tell({ id, result: (await methods[method](params)) ?? null });
    } catch (error) {
        tell({ id, error: described(error) });
    }
}

for await (const line of createInterface({ input: process.stdin })) {
    void answer(JSON.parse(line));
}
process.exit(0);
