# Varnish between a proxy with TLS, such as Nginx without its own cache, and the service: keeps copies
# of /image/ and /cache/, and of nothing else. Tested with Varnish 7.1 (Debian 12).
vcl 4.1;

backend default {
    .host = "127.0.0.1";
    .port = "7860";
    # Longer than SR_MAX_SYNC_SECONDS: a new image is made while its client waits.
    .first_byte_timeout = 300s;
}

sub vcl_recv {
    if (req.restarts == 0) {
        # Without the proxy's own address, which Varnish has added.
        set req.http.X-Forwarded-For = regsub(req.http.X-Forwarded-For, ", *[^,]*$", "");
        set req.grace = 10s;
    } else {
        # The service is away: old images do.
        set req.grace = 1d;
    }
    if (req.url !~ "^/(cache|image)/") {
        return (pass);
    }
    # Neither is looked at there; Varnish would pass requests that have one.
    unset req.http.Cookie;
    unset req.http.Authorization;
    if (req.url ~ "^/image/") {
        # No part of the address.
        set req.url = regsub(req.url, "\?.*$", "");
    }
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
    # Kept for a day for when the service is away, but for those whose source limits that.
    if (bereq.url ~ "^/image/" && beresp.http.Cache-Control !~ "must-revalidate|no-store|stale-") {
        set beresp.grace = 1d;
    }
}

sub vcl_deliver {
    if (resp.status >= 500 && req.restarts == 0 && req.url ~ "^/image/") {
        return (restart);
    }
}
