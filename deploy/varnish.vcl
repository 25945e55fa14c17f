# Varnish between a proxy with TLS, such as Nginx without its own cache, and the service: keeps copies
# of /image/ and /cache/, and of nothing else. Tested with Varnish 7.1 (Debian 12).
vcl 4.1;

import std;

backend default {
    .host = "127.0.0.1";
    .port = "7860";
    # Longer than SR_MAX_SYNC_SECONDS: a new image is made while its client waits.
    .first_byte_timeout = 300s;
    .probe = { .url = "/api/health"; .interval = 2s; }
}

sub vcl_recv {
    # Without the proxy's own address, which Varnish has added.
    set req.http.X-Forwarded-For = regsub(req.http.X-Forwarded-For, ", *[^,]*$", "");
    if (std.healthy(req.backend_hint)) {
        set req.grace = 10s;
    }
    if (req.url !~ "^/(cache|image)/") {
        return (pass);
    }
    # The query is no part of these addresses.
    set req.url = regsub(req.url, "\?.*$", "");
    # What a client shows, in three classes: .auto, which varies by Accept, has a copy for each.
    if (req.url ~ "^/image/.*\.auto$") {
        if (req.http.Accept ~ "(?i)(^|[\s,])image/avif\s*(?!;\s*q=0(\.0*)?\s*(,|$))([;,]|$)") {
            set req.http.Accept = "image/avif";
        } elsif (req.http.Accept ~ "(?i)(^|[\s,])image/webp\s*(?!;\s*q=0(\.0*)?\s*(,|$))([;,]|$)") {
            set req.http.Accept = "image/webp";
        } else {
            unset req.http.Accept;
        }
    }
}

sub vcl_backend_response {
    # Old images while the service is away, for a day; but none that must not be shown when it is old.
    if (bereq.url ~ "^/image/" && beresp.http.Cache-Control !~ "must-revalidate|no-store") {
        set beresp.grace = 1d;
    }
}
