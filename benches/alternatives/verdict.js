// Asks MAS about the token of a request, and says what nginx-auth-request.conf keeps: 204 with the identity in headers,
// 401 for a dead token, and 503, which is not kept, when MAS did not say.

const DEVICE = 'urn:matrix:client:device:';

async function answer(r) {
    const reply = await r.subrequest('/mas');
    let said;
    try {
        said = JSON.parse(reply.responseText);
    } catch (error) {
        said = {};
    }
    if (reply.status !== 200 || typeof said.active !== 'boolean') {
        r.return(503);
        return;
    }
    if (!said.active) {
        r.return(401);
        return;
    }
    const device = said.scope.split(' ').find((scope) => scope.startsWith(DEVICE));
    r.headersOut['x-matrix-user-id'] = `@${said.username}:example.org`;
    r.headersOut['x-matrix-device-id'] = said.device_id || (device && device.slice(DEVICE.length)) || '';
    r.return(204);
}

export default { answer };
