//! Tables of YAML in, findings out: every rule of every kind, each at its line.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::source::tests::{check, findings};

#[test]
fn virtual_services() {
    check(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
",
        "a.yaml:1:1: error[IST0106]: VirtualService default/a: has no routes; give at least one of http, tls, tcp
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: ['*', 10.0.0.1, a.*.b, a, a]
  http: [{route: [{destination: {host: a}}]}]
",
"a.yaml:5:11: error[IST0106]: VirtualService default/a: hosts[0]: `*` would take all traffic of the mesh; name hosts, or bind to a gateway by `gateways`
a.yaml:5:16: error[IST0106]: VirtualService default/a: hosts[1]: `10.0.0.1` is an address, which only gateways can serve; name a host, or bind to a gateway
a.yaml:5:26: error[IST0106]: VirtualService default/a: hosts[2]: `a.*.b` has a wildcard that is not its whole first label; write `*.example.com`
a.yaml:5:36: error[IST0106]: VirtualService default/a: hosts[4]: `a` is given twice; remove one
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [10.0.0.1, '*']
  gateways: [ns/edge, a//b]
  http: [{route: [{destination: {host: a}}]}]
",
"a.yaml:6:23: error[IST0106]: VirtualService default/a: gateways[1]: `a//b` is not a gateway; write `name`, `namespace/name` or `mesh`
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  gateways: [mesh]
  http: [{delegate: {name: b}}]
  tcp: [{route: [{destination: {host: a}}]}]
",
"a.yaml:5:3: error[IST0106]: VirtualService default/a: gateways: a VirtualService without hosts is a delegate and takes the gateways of its root; remove gateways or add hosts
a.yaml:6:11: error[IST0106]: VirtualService default/a: http[0].delegate: this VirtualService is a delegate itself, and delegates cannot delegate; give a route
a.yaml:7:3: error[IST0106]: VirtualService default/a: tcp: a VirtualService without hosts is a delegate, which has http routes only; add hosts or remove this
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  exportTo: ['*', prod]
  http:
  - route: [{destination: {host: a}}]
  - route: [{destination: {host: a}}]
",
"a.yaml:6:14: error[IST0106]: VirtualService default/a: exportTo[0]: `*` cannot stand beside others; give it alone or name namespaces
a.yaml:9:5: warning[IST0130]: VirtualService default/a: http[1]: is never reached, because http[0] has no match and so takes every request; move it before
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - match: [{port: 80}]
  - match: [{port: 0}]
    redirect: {uri: /}
    route: [{destination: {host: a}}]
",
"a.yaml:7:5: error[IST0106]: VirtualService default/a: http[0]: does nothing; give one of route, redirect, directResponse, delegate
a.yaml:8:5: error[IST0106]: VirtualService default/a: http[1]: has route and redirect; give only one of them
a.yaml:8:14: error[IST0106]: VirtualService default/a: http[1].match[0].port: 0 is not a port; ports are 1 to 65535
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - route:
    - destination: {host: a}
    - destination: {host: a, subset: v_1, port: {number: 70000}}
      weight: 0
",
"a.yaml:7:5: error[IST0106]: VirtualService default/a: http[0].route: all weights are 0, so no destination would get a request; give weights
a.yaml:9:30: error[IST0106]: VirtualService default/a: http[0].route[1].destination.subset: `v_1` is not a name; use up to 63 letters, digits and `-`, a letter or digit at both ends
a.yaml:9:50: error[IST0106]: VirtualService default/a: http[0].route[1].destination.port.number: 70000 is not a port; ports are 1 to 65535
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - match:
    - uri: {}
      method: {exact: ''}
      scheme: {regex: '('}
      headers: {x-any: {}, uri: {exact: a}, ':path': {exact: /}, 'bad name': {exact: x}, '@request.auth.claims.sub': {exact: me}}
      queryParams: {q: {exact: ''}, r: {regex: ''}}
      ignoreUriCase: true
      sourceLabels: {app: 'a*'}
      gateways: [edge]
    route: [{destination: {host: a}}]
",
"a.yaml:8:7: error[IST0106]: VirtualService default/a: http[0].match[0].uri: has nothing to match; give one of exact, prefix, regex
a.yaml:9:16: error[IST0106]: VirtualService default/a: http[0].match[0].method.exact: is empty; give the text to match
a.yaml:10:16: error[IST0106]: VirtualService default/a: http[0].match[0].scheme.regex: `(` is not a regular expression of RE2: unclosed group
a.yaml:11:28: warning[IST0106]: VirtualService default/a: http[0].match[0].headers[uri]: is ignored, as in Istio; use the field `uri` of the match
a.yaml:11:45: error[IST0106]: VirtualService default/a: http[0].match[0].headers[:path]: `:path` is not a header; use the field `uri` of the match
a.yaml:11:66: error[IST0106]: VirtualService default/a: http[0].match[0].headers[bad name]: `bad name` is not the name of a header
a.yaml:11:90: error[IST0106]: VirtualService default/a: http[0].match[0].headers[@request.auth.claims.sub]: matching on claims of a token is not supported yet; remove it, or match on a header that the application's login sets
a.yaml:12:41: error[IST0106]: VirtualService default/a: http[0].match[0].queryParams[r].regex: the expression is empty; to match anything write `.*`
a.yaml:14:7: warning[IST0106]: VirtualService default/a: http[0].match[0].sourceLabels: tells sidecars apart, but this match is for gateways only; add `mesh` to its gateways
a.yaml:14:22: error[IST0106]: VirtualService default/a: http[0].match[0].sourceLabels[app]: wildcards are not allowed in label values; name the value
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - redirect: {redirectCode: 200, port: 80, derivePort: FROM_REQUEST_PORT, scheme: 'h ttp'}
  - match: [{port: 80}]
    redirect: {}
  - match: [{port: 80}]
    redirect: {uri: /a, prefixRewrite: /b}
",
"a.yaml:7:5: error[IST0106]: VirtualService default/a: http[0].redirect: has both port and derivePort; give one
a.yaml:7:16: error[IST0106]: VirtualService default/a: http[0].redirect.redirectCode: 200 does not redirect; use 301, 302, 303, 307 or 308
a.yaml:7:76: error[IST0106]: VirtualService default/a: http[0].redirect.scheme: `h ttp` is not a scheme; write http or https
a.yaml:8:5: warning[IST0130]: VirtualService default/a: http[1]: is never reached, because http[0] has no match and so takes every request; move it before
a.yaml:9:5: error[IST0106]: VirtualService default/a: http[1].redirect: would send the client to where it came from; give uri, authority, port or scheme
a.yaml:11:5: error[IST0106]: VirtualService default/a: http[2].redirect: has both uri and prefixRewrite; give one: uri replaces the whole path, prefixRewrite what a prefix match took
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - match: [{port: 80}]
    directResponse: {status: 99, body: {string: a, bytes: YQ==}}
    rewrite: {uri: /}
  - directResponse: {status: 503, body: {}}
",
"a.yaml:8:22: error[IST0106]: VirtualService default/a: http[0].directResponse.status: 99 is not a final status of HTTP; use 200 to 599
a.yaml:8:34: error[IST0106]: VirtualService default/a: http[0].directResponse.body: has both string and bytes; give one
a.yaml:9:5: error[IST0106]: VirtualService default/a: http[0].rewrite: has nothing to rewrite, because the request is not forwarded; remove it
a.yaml:10:35: error[IST0106]: VirtualService default/a: http[1].directResponse.body: is empty; give string or bytes, or remove body
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - match: [{port: 80}]
    rewrite: {}
    route: [{destination: {host: a}}]
  - rewrite: {uri: /, uriRegexRewrite: {match: '[', rewrite: ''}}
    route: [{destination: {host: a}}]
",
"a.yaml:8:5: error[IST0106]: VirtualService default/a: http[0].rewrite: rewrites nothing; give uri, uriRegexRewrite or authority
a.yaml:10:5: error[IST0106]: VirtualService default/a: http[1].rewrite: has both uri and uriRegexRewrite; give one
a.yaml:10:23: error[IST0106]: VirtualService default/a: http[1].rewrite.uriRegexRewrite: has no rewrite; give the replacement
a.yaml:10:41: error[IST0106]: VirtualService default/a: http[1].rewrite.uriRegexRewrite.match: `[` is not a regular expression of RE2: unclosed character class
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - retries: {attempts: -1, perTryTimeout: 10us, retryOn: '5xx,503,sometimes,777', retryBudget: {}}
    timeout: 0s
    route: [{destination: {host: a}}]
",
"a.yaml:7:15: error[IST0106]: VirtualService default/a: http[0].retries.attempts: -1 is negative; give 0 or more
a.yaml:7:29: error[IST0106]: VirtualService default/a: http[0].retries.perTryTimeout: 0.00001s is too short; the least is 1ms
a.yaml:7:50: error[IST0106]: VirtualService default/a: http[0].retries.retryOn: `sometimes` is not a condition to retry on; use status codes or 5xx, gateway-error, reset, reset-before-request, connect-failure, retriable-4xx, refused-stream, retriable-status-codes, retriable-headers, envoy-ratelimited, http3-post-connect-failure, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable
a.yaml:7:50: error[IST0106]: VirtualService default/a: http[0].retries.retryOn: `777` is not a condition to retry on; use status codes or 5xx, gateway-error, reset, reset-before-request, connect-failure, retriable-4xx, refused-stream, retriable-status-codes, retriable-headers, envoy-ratelimited, http3-post-connect-failure, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable
a.yaml:7:84: error[IST0106]: VirtualService default/a: http[0].retries.retryBudget: is not supported yet; remove it and give trafficPolicy.retryBudget in the DestinationRule of the host
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - retries: {attempts: 0, retryOn: 5xx}
    timeout: 1.0005s
    route: [{destination: {host: a}}]
",
"a.yaml:7:15: error[IST0106]: VirtualService default/a: http[0].retries.attempts: 0 turns retries off, so the rest has no effect; give attempts, or remove the rest
a.yaml:8:5: error[IST0106]: VirtualService default/a: http[0].timeout: 1.0005s has a fraction of a millisecond; round it
",
    );
    check(
"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  http:\n  - headers: {request: {set: {':authority': b, ':path': /, 'a b': c}, remove: [host, x]}, response: {add: {x: \"a\\nb\"}}}\n    route: [{destination: {host: a}}]\n",
"a.yaml:7:48: warning[IST0106]: VirtualService default/a: http[0].headers.request.set[:path]: `:path` cannot be changed by header operations and is ignored; use rewrite
a.yaml:7:60: error[IST0106]: VirtualService default/a: http[0].headers.request.set[a b]: `a b` is not the name of a header
a.yaml:7:80: warning[IST0106]: VirtualService default/a: http[0].headers.request.remove[0]: `host` cannot be removed and is ignored; use rewrite
a.yaml:7:108: error[IST0106]: VirtualService default/a: http[0].headers.response.add[x]: the value holds a line break, which would end the header; remove it
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - fault: {abort: {httpStatus: 500}}
    mirror: {host: b}
    mirrors: [{destination: {host: b}}]
    mirrorPercentage: {value: 1}
    corsPolicy: {}
    route: [{destination: {host: a}}]
",
"a.yaml:7:5: error[IST0106]: VirtualService default/a: http[0].fault: is not supported yet; remove it
a.yaml:8:5: error[IST0106]: VirtualService default/a: http[0].mirror: is not supported yet; remove it
a.yaml:9:5: error[IST0106]: VirtualService default/a: http[0].mirrors: is not supported yet; remove it
a.yaml:10:5: error[IST0106]: VirtualService default/a: http[0].mirrorPercentage: is not supported yet; remove it
a.yaml:11:5: error[IST0106]: VirtualService default/a: http[0].corsPolicy: is not supported yet; remove it and let the application answer preflight requests
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.com, '*.b.com']
  tls:
  - route: []
  - match: [{sniHosts: []}, {sniHosts: [a.com, c.com, x.b.com, '*.b.com'], destinationSubnets: [10.0.0.0/99]}]
    route: [{destination: {host: a}}]
",
"a.yaml:7:5: error[IST0106]: VirtualService default/a: tls[0]: has no match; a TLS route needs match[].sniHosts
a.yaml:7:5: error[IST0106]: VirtualService default/a: tls[0].route: has no destination; give at least one
a.yaml:8:14: error[IST0106]: VirtualService default/a: tls[1].match[0].sniHosts: is empty; name the servers that clients ask for
a.yaml:8:48: error[IST0106]: VirtualService default/a: tls[1].match[1].sniHosts[1]: `c.com` is not among the hosts of the VirtualService; add it there
a.yaml:8:97: error[IST0106]: VirtualService default/a: tls[1].match[1].destinationSubnets[0]: `10.0.0.0/99` is not an address or range; write 10.1.2.3 or 10.0.0.0/8
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  tcp:
  - match: [{port: 65536, sourceSubnet: 10.0.0.0/8}]
    route:
    - {destination: {host: '*'}}
    - {destination: {host: ''}}
",
"a.yaml:7:14: error[IST0106]: VirtualService default/a: tcp[0].match[0].port: 65536 is not a port; ports are 1 to 65535
a.yaml:7:27: error[IST0106]: VirtualService default/a: tcp[0].match[0].sourceSubnet: is not supported yet; remove it; Istio reserves it, too. Use sourceLabels or sourceNamespace
a.yaml:8:5: error[IST0106]: VirtualService default/a: tcp[0].route: all weights are 0, so no destination would get a connection; give weights
a.yaml:9:22: error[IST0106]: VirtualService default/a: tcp[0].route[0].destination.host: `*` is not a destination; name a host
a.yaml:10:22: error[IST0106]: VirtualService default/a: tcp[0].route[1].destination.host: is empty; name a host
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  http:
  - delegate: {}
  - match: [{port: 80}]
    delegate: {name: b}
    timeout: 1s
",
"a.yaml:6:5: error[IST0106]: VirtualService default/a: http[0].delegate: this VirtualService is a delegate itself, and delegates cannot delegate; give a route
a.yaml:6:5: error[IST0106]: VirtualService default/a: http[0].delegate: names no VirtualService; give name
a.yaml:8:5: error[IST0106]: VirtualService default/a: http[1].delegate: this VirtualService is a delegate itself, and delegates cannot delegate; give a route
",
    );
}

#[test]
fn destination_rules() {
    check(
"apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: ''
  subsets: [{name: v1, labels: {version: v1}}, {name: v1}, {name: a_b}]
",
"a.yaml:5:3: error[IST0106]: DestinationRule default/a: host: is empty; name a host
a.yaml:6:49: error[IST0106]: DestinationRule default/a: subsets[1].name: `v1` is given twice; subsets have names of their own
a.yaml:6:61: error[IST0106]: DestinationRule default/a: subsets[2].name: `a_b` is not a name; use up to 63 letters, digits and `-`, a letter or digit at both ends
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  trafficPolicy:
    loadBalancer: {simple: LEAST_CONN, consistentHash: {useSourceIp: true}, warmup: {duration: 1s}, localityLbSetting: {enabled: true}, zoneAwareLbSetting: {}}
    tunnel: {targetHost: b}
    proxyProtocol: {version: V2}
    portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}, {}]
",
"a.yaml:7:5: error[IST0106]: DestinationRule default/a: trafficPolicy.loadBalancer: has both simple and consistentHash; give one
a.yaml:7:20: warning[IST0002]: DestinationRule default/a: trafficPolicy.loadBalancer.simple: LEAST_CONN is an old name; write LEAST_REQUEST
a.yaml:7:40: error[IST0106]: DestinationRule default/a: trafficPolicy.loadBalancer.consistentHash: is not supported yet; remove it or use simple: LEAST_REQUEST, which keeps no affinity
a.yaml:7:77: error[IST0106]: DestinationRule default/a: trafficPolicy.loadBalancer.warmup: is not supported yet; remove it
a.yaml:7:101: error[IST0106]: DestinationRule default/a: trafficPolicy.loadBalancer.localityLbSetting: is not supported yet; remove it
a.yaml:7:137: error[IST0106]: DestinationRule default/a: trafficPolicy.loadBalancer.zoneAwareLbSetting: is not supported yet; remove it
a.yaml:8:5: error[IST0106]: DestinationRule default/a: trafficPolicy.tunnel: is not supported yet; remove it
a.yaml:9:5: error[IST0106]: DestinationRule default/a: trafficPolicy.proxyProtocol: is not supported yet; remove it
a.yaml:10:55: error[IST0106]: DestinationRule default/a: trafficPolicy.portLevelSettings[1].port.number: 80 is given twice; merge the settings
a.yaml:10:69: error[IST0106]: DestinationRule default/a: trafficPolicy.portLevelSettings[2]: names no port; give port.number
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: -1, connectTimeout: 0s, tcpKeepalive: {time: 100ms}}
      http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE, http2KeepAlive: {timeout: 0s}, idleTimeout: 0s}
    outlierDetection: {consecutiveErrors: 5, consecutiveLocalOriginFailures: 3, maxEjectionPercent: 101, outlierDetectionHttpErrorCodes: [500, 42]}
    retryBudget: {percent: {value: 200}, budgetInterval: 5us}
",
"a.yaml:8:13: error[IST0106]: DestinationRule default/a: trafficPolicy.connectionPool.tcp.maxConnections: -1 is negative; give 0 or more
a.yaml:8:33: error[IST0106]: DestinationRule default/a: trafficPolicy.connectionPool.tcp.connectTimeout: 0s is too short; the least is 1ms
a.yaml:8:68: error[IST0106]: DestinationRule default/a: trafficPolicy.connectionPool.tcp.tcpKeepalive.time: 0.1s is too short; the least is 1s
a.yaml:9:14: error[IST0106]: DestinationRule default/a: trafficPolicy.connectionPool.http.useClientProtocol: speaks what the client spoke, and h2UpgradePolicy: UPGRADE speaks HTTP/2; give one
a.yaml:9:65: error[IST0106]: DestinationRule default/a: trafficPolicy.connectionPool.http.http2KeepAlive.interval: is missing, so nothing would be sent; give the time between pings
a.yaml:9:82: error[IST0106]: DestinationRule default/a: trafficPolicy.connectionPool.http.http2KeepAlive.timeout: 0s is too short; the least is 1ms
a.yaml:10:24: error[IST0106]: DestinationRule default/a: trafficPolicy.outlierDetection.consecutiveErrors: was removed from Istio; use consecutive5xxErrors or consecutiveGatewayErrors
a.yaml:10:46: error[IST0106]: DestinationRule default/a: trafficPolicy.outlierDetection.consecutiveLocalOriginFailures: has no effect while errors are not told apart; set splitExternalLocalOriginErrors: true
a.yaml:10:81: error[IST0106]: DestinationRule default/a: trafficPolicy.outlierDetection.maxEjectionPercent: 101 is not a percentage; give 0 to 100
a.yaml:10:144: error[IST0106]: DestinationRule default/a: trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes[1]: 42 is not a status of HTTP; use 100 to 599
a.yaml:11:19: error[IST0106]: DestinationRule default/a: trafficPolicy.retryBudget.percent: 200 is not a percentage; give 0 to 100
a.yaml:11:42: error[IST0106]: DestinationRule default/a: trafficPolicy.retryBudget.budgetInterval: 0.000005s is too short; the least is 1ms
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  trafficPolicy:
    connectionPool: {}
    tls: {mode: MUTUAL, clientCertificate: /a.pem, caCrl: /crl}
  subsets:
  - name: v1
    trafficPolicy:
      tls: {mode: ISTIO_MUTUAL, privateKey: /k}
  - name: v2
    trafficPolicy:
      tls: {mode: SIMPLE, credentialName: c, insecureSkipVerify: true, subjectAltNames: [a]}
  - name: v3
    trafficPolicy:
      tls: {mode: DISABLE, sni: a}
",
"a.yaml:7:5: error[IST0106]: DestinationRule default/a: trafficPolicy.connectionPool: is empty; give tcp or http
a.yaml:8:5: error[IST0106]: DestinationRule default/a: trafficPolicy.tls.privateKey: is missing; mode MUTUAL needs the path of a file in the proxy
a.yaml:8:52: error[IST0106]: DestinationRule default/a: trafficPolicy.tls.caCrl: is not supported yet; remove it
a.yaml:12:33: error[IST0106]: DestinationRule default/a: subsets[0].trafficPolicy.tls.privateKey: has no place in mode ISTIO_MUTUAL, which uses the workload's mesh certificate; remove it
a.yaml:15:27: error[IST0106]: DestinationRule default/a: subsets[1].trafficPolicy.tls.credentialName: is not supported yet; remove it and give clientCertificate, privateKey and caCertificates as files of the proxy
a.yaml:15:72: error[IST0106]: DestinationRule default/a: subsets[1].trafficPolicy.tls.subjectAltNames: is not looked at when insecureSkipVerify is true; remove one of them
a.yaml:18:28: error[IST0106]: DestinationRule default/a: subsets[2].trafficPolicy.tls.sni: has no effect without TLS; use mode SIMPLE or MUTUAL
",
    );
}

#[test]
fn gateways() {
    check(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a}
spec:
  selector: {istio: ingressgateway}
",
        "a.yaml:4:1: error[IST0106]: Gateway default/a: servers: is empty; a Gateway needs a server
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a}
spec:
  servers:
  - port: {number: 0, protocol: FTP}
    bind: unix:///a
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ['a b/c', 'a.*']
  - port: {number: 80, name: https, protocol: HTTP}
    hosts: ['*']
    tls: {mode: SIMPLE}
  - port: {number: 81, name: http, protocol: HTTP}
    hosts: ['*']
    tls: {httpsRedirect: true}
",
"a.yaml:6:5: error[IST0106]: Gateway default/a: servers[0].port.name: is missing; name the port
a.yaml:6:5: error[IST0106]: Gateway default/a: servers[0].hosts: is empty; name the hosts that are served, or `*`
a.yaml:6:12: error[IST0106]: Gateway default/a: servers[0].port.number: 0 is not a port; ports are 1 to 65535
a.yaml:6:23: error[IST0106]: Gateway default/a: servers[0].port.protocol: `FTP` is not a protocol of gateways; use HTTP, HTTPS, GRPC, HTTP2, TCP or TLS
a.yaml:7:5: error[IST0106]: Gateway default/a: servers[0].bind: Unix sockets are not supported yet; give an IP address
a.yaml:8:5: error[IST0106]: Gateway default/a: servers[1].tls: is missing; a server of HTTPS needs tls.mode
a.yaml:9:13: error[IST0106]: Gateway default/a: servers[1].hosts[0]: `a b` is not a namespace; write `namespace/host`, `./host` or `*/host`
a.yaml:9:22: error[IST0106]: Gateway default/a: servers[1].hosts[1]: `a.*` has a wildcard that is not its whole first label; write `*.example.com`
a.yaml:10:24: error[IST0106]: Gateway default/a: servers[2].port.name: `https` is given twice; ports have names of their own
a.yaml:12:5: error[IST0106]: Gateway default/a: servers[2].tls: has no place in a server of HTTP, which is plaintext, but for httpsRedirect; use HTTPS
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a}
spec:
  servers:
  - port: {number: 1, name: a, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: SIMPLE, minProtocolVersion: TLSV1_0, cipherSuites: [RC4, ECDHE-RSA-AES128-GCM-SHA256]}
  - port: {number: 2, name: b, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: MUTUAL, credentialName: c, caCrl: /c, verifyCertificateSpki: [x], verifyCertificateHash: [y], serverCertificate: /s}
  - port: {number: 3, name: c, protocol: TLS}
    hosts: ['*']
    tls: {mode: AUTO_PASSTHROUGH}
  - port: {number: 4, name: d, protocol: TLS}
    hosts: ['*']
    tls: {mode: PASSTHROUGH, credentialName: c, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}
  - port: {number: 5, name: e, protocol: MONGO}
    hosts: ['*']
",
"a.yaml:8:5: error[IST0106]: Gateway default/a: servers[0].tls.serverCertificate: is missing; give credentialName, or the path of a file in the gateway
a.yaml:8:5: error[IST0106]: Gateway default/a: servers[0].tls.privateKey: is missing; give credentialName, or the path of a file in the gateway
a.yaml:8:25: error[IST0106]: Gateway default/a: servers[0].tls.minProtocolVersion: TLS below 1.2 is not supported, because it is broken; use TLSV1_2 or TLSV1_3
a.yaml:8:69: error[IST0106]: Gateway default/a: servers[0].tls.cipherSuites[0]: `RC4` is not a cipher suite of the proxy; use ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-ECDSA-CHACHA20-POLY1305, ECDHE-RSA-AES256-GCM-SHA384, ECDHE-RSA-AES128-GCM-SHA256, ECDHE-RSA-CHACHA20-POLY1305
a.yaml:11:44: error[IST0106]: Gateway default/a: servers[1].tls.caCrl: is not supported yet; remove it
a.yaml:11:55: error[IST0106]: Gateway default/a: servers[1].tls.verifyCertificateSpki: is not supported yet; remove it and use subjectAltNames
a.yaml:11:83: error[IST0106]: Gateway default/a: servers[1].tls.verifyCertificateHash: is not supported yet; remove it and use subjectAltNames
a.yaml:11:111: error[IST0106]: Gateway default/a: servers[1].tls.serverCertificate: stands beside credentialName, which already brings it; give one of them
a.yaml:14:11: error[IST0106]: Gateway default/a: servers[2].tls.mode: AUTO_PASSTHROUGH is not supported yet; use PASSTHROUGH with a VirtualService that has tls routes
a.yaml:17:30: error[IST0106]: Gateway default/a: servers[3].tls.credentialName: is not used in this mode; remove it, or use mode SIMPLE
a.yaml:17:49: error[IST0106]: Gateway default/a: servers[3].tls.minProtocolVersion: is above maxProtocolVersion; lower it
a.yaml:18:32: error[IST0106]: Gateway default/a: servers[4].port.protocol: MONGO is not supported yet; use HTTP or TCP
",
    );
}

#[test]
fn service_entries_and_workload_entries() {
    check(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: []
",
        "a.yaml:4:1: error[IST0106]: ServiceEntry default/a: ports: is empty; a service needs a port
a.yaml:5:3: error[IST0106]: ServiceEntry default/a: hosts: is empty; name the hosts of the service
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: ['*', a.com, a.com]
  addresses: [x, 10.0.0.0/8]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 80, name: http, protocol: FTP, targetPort: 0}]
  resolution: DNS
  endpoints: [{address: 'unix:///x'}, {address: b.com, ports: {https: 443}}, {address: 'b c'}]
  workloadSelector: {labels: {}}
",
"a.yaml:5:11: error[IST0106]: ServiceEntry default/a: hosts[0]: `*` would be every host; name hosts, or a domain such as `*.example.com`
a.yaml:5:23: error[IST0106]: ServiceEntry default/a: hosts[2]: `a.com` is given twice; remove one
a.yaml:6:15: error[IST0106]: ServiceEntry default/a: addresses[0]: `x` is not an address or range; write 10.1.2.3 or 10.0.0.0/8
a.yaml:7:54: error[IST0106]: ServiceEntry default/a: ports[1].number: 80 is given twice; ports have numbers of their own
a.yaml:7:66: error[IST0106]: ServiceEntry default/a: ports[1].name: `http` is given twice; ports have names of their own
a.yaml:7:78: error[IST0106]: ServiceEntry default/a: ports[1].protocol: `FTP` is not a protocol; use one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS, UDP, REDIS, MYSQL
a.yaml:7:93: error[IST0106]: ServiceEntry default/a: ports[1].targetPort: 0 is not a port; ports are 1 to 65535
a.yaml:9:16: error[IST0106]: ServiceEntry default/a: endpoints[0].address: is a Unix socket, which DNS does not find; use resolution STATIC
a.yaml:9:64: error[IST0106]: ServiceEntry default/a: endpoints[1].ports[https]: the service has no port named `https`; its ports are http, http
a.yaml:9:79: error[IST0106]: ServiceEntry default/a: endpoints[2].address: `b c` is neither an IP address nor a DNS name
a.yaml:10:3: error[IST0106]: ServiceEntry default/a: workloadSelector: stands beside endpoints; give one of them
a.yaml:10:22: error[IST0106]: ServiceEntry default/a: workloadSelector.labels: is empty and would select nothing; give labels
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: ['*.a.com']
  ports: [{number: 80, name: http}]
  resolution: DYNAMIC_DNS
",
"a.yaml:7:3: error[IST0106]: ServiceEntry default/a: resolution: DYNAMIC_DNS is not supported yet; use NONE, which keeps the address that the client resolved
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: ['*.a.com']
  ports: [{number: 80, name: http}]
  resolution: DNS
",
"a.yaml:7:3: error[IST0106]: ServiceEntry default/a: resolution: `*.a.com` cannot be resolved by DNS; give endpoints, or use NONE
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.com]
  ports: [{number: 80, name: http}]
  endpoints: [{address: 10.0.0.1}]
",
"a.yaml:4:1: error[IST0106]: ServiceEntry default/a: resolution: NONE goes where the client went, so endpoints have no effect; remove them, or use STATIC or DNS
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.com]
  ports: [{number: 80, name: http}]
  resolution: STATIC
  endpoints: [{address: a.com}]
",
"a.yaml:8:16: error[IST0106]: ServiceEntry default/a: endpoints[0].address: `a.com` is not an IP address; give one, or use resolution DNS
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: a}
spec:
  ports: {http: 0}
  labels: {a: b c}
  locality: a/b/c/d
",
"a.yaml:4:1: error[IST0106]: WorkloadEntry default/a: address: is missing; give an IP address or a DNS name
a.yaml:5:11: error[IST0106]: WorkloadEntry default/a: ports[http]: 0 is not a port; ports are 1 to 65535
a.yaml:6:12: error[IST0106]: WorkloadEntry default/a: labels[a]: `b c` is not the value of a label; use up to 63 letters, digits, `-`, `_` and `.`
a.yaml:7:3: error[IST0106]: WorkloadEntry default/a: locality: `a/b/c/d` is not a locality; write region/zone/subzone
",
    );
}

#[test]
fn sidecars() {
    check(
"apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a}
spec:
  egress:
  - hosts: [a, '~/x', '~n_s/*', './*', 'a_b/*', '~/*']
    captureMode: NONE
  - port: {number: 80, protocol: HTTP}
    hosts: []
    bind: x
  - port: {number: 80, protocol: FTP, targetPort: 1}
    hosts: ['*/*']
    bind: x
  inboundConnectionPool: {}
  outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, egressProxy: {host: a}}
",
"a.yaml:6:5: error[IST0106]: Sidecar default/a: egress[0]: has no port, so it takes every port that no other listener has; move it to the end, and have one such
a.yaml:6:13: error[IST0106]: Sidecar default/a: egress[0].hosts[0]: `a` names no namespace; write `namespace/host`, `./host` or `*/host`
a.yaml:6:16: error[IST0106]: Sidecar default/a: egress[0].hosts[1]: `~/x`: only `~/*` (nothing) can follow `~`; write that, or a namespace
a.yaml:6:23: error[IST0106]: Sidecar default/a: egress[0].hosts[2]: `~n_s` is not a namespace; write `namespace/host`, `./host` or `*/host`
a.yaml:6:40: error[IST0106]: Sidecar default/a: egress[0].hosts[4]: `a_b` is not a namespace; write `namespace/host`, `./host` or `*/host`
a.yaml:7:5: error[IST0106]: Sidecar default/a: egress[0].captureMode: needs a port to be bound; give port
a.yaml:9:5: error[IST0106]: Sidecar default/a: egress[1].hosts: is empty; name what may be reached, such as `./*`, or `~/*` for nothing
a.yaml:10:5: error[IST0106]: Sidecar default/a: egress[1].bind: `x` is not an IP address
a.yaml:11:12: error[IST0106]: Sidecar default/a: egress[2].port.number: 80 is given twice; merge the hosts
a.yaml:11:24: error[IST0106]: Sidecar default/a: egress[2].port.protocol: `FTP` is not a protocol; use one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS, UDP, REDIS, MYSQL
a.yaml:11:39: error[IST0106]: Sidecar default/a: egress[2].port.targetPort: has no effect in a Sidecar; use defaultEndpoint
a.yaml:13:5: error[IST0106]: Sidecar default/a: egress[2].bind: `x` is not an IP address
a.yaml:14:3: error[IST0106]: Sidecar default/a: inboundConnectionPool: is empty; give tcp or http
a.yaml:15:27: error[IST0106]: Sidecar default/a: outboundTrafficPolicy.mode: ALLOW_ANY_DYNAMIC_DNS is not supported yet; use ALLOW_ANY
a.yaml:15:56: error[IST0106]: Sidecar default/a: outboundTrafficPolicy.egressProxy: is not supported yet; remove it and route to the gateway by a VirtualService
",
    );
    check(
"apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a}
spec:
  ingress:
  - port: {number: 80, protocol: HTTP}
    defaultEndpoint: unix:a
    tls: {mode: SIMPLE}
  - port: {number: 80, protocol: HTTP}
    defaultEndpoint: 10.0.0.1:80
    connectionPool: {}
",
"a.yaml:7:5: error[IST0106]: Sidecar default/a: ingress[0].defaultEndpoint: `unix:a` is not a Unix socket; write unix:///PATH
a.yaml:8:5: error[IST0106]: Sidecar default/a: ingress[0].tls: is not supported yet; remove it and use mesh mTLS, or end TLS in the application
a.yaml:9:12: error[IST0106]: Sidecar default/a: ingress[1].port.number: 80 is given twice; remove one
a.yaml:10:5: error[IST0106]: Sidecar default/a: ingress[1].defaultEndpoint: `10.0.0.1:80` is not an endpoint of the workload; write 127.0.0.1:PORT or 0.0.0.0:PORT
a.yaml:11:5: error[IST0106]: Sidecar default/a: ingress[1].connectionPool: is empty; give tcp or http
",
    );
}

#[test]
fn security_and_telemetry() {
    check(
"apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: a}
spec:
  portLevelMtls: {8080: {mode: STRICT}, http: {mode: STRICT}}
",
"a.yaml:5:3: error[IST0106]: PeerAuthentication default/a: portLevelMtls: holds for ports of workloads, so it needs them selected; give selector.matchLabels
a.yaml:5:41: error[IST0106]: PeerAuthentication default/a: portLevelMtls[http]: `http` is not a port of a workload; ports are 1 to 65535
",
    );
    check(
"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a}
spec:
  action: DENY
",
"a.yaml:5:3: error[IST0106]: AuthorizationPolicy default/a: action: DENY without rules denies nothing; add a rule, `{}` for every request
",
    );
    check(
"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a}
spec:
  action: CUSTOM
  provider: {name: x}
",
"a.yaml:5:3: error[IST0106]: AuthorizationPolicy default/a: action: CUSTOM is not supported yet; use ALLOW or DENY
",
    );
    check(
"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a}
spec:
  action: AUDIT
  rules: [{}]
",
"a.yaml:5:3: error[IST0106]: AuthorizationPolicy default/a: action: AUDIT is not supported yet; use the access log, or DENY
",
    );
    check(
"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a}
spec:
  targetRefs: [{kind: Service, name: a}]
  rules:
  - from: [{source: {}}, {}]
    to: [{operation: {}}]
    when: [{key: source.ip, values: [a]}]
  - from:
    - source: {principals: ['spiffe://a', ''], requestPrincipals: ['*'], ipBlocks: [x], remoteIpBlocks: [1.2.3.4], serviceAccounts: [a], trustDomains: [b]}
    to:
    - operation: {paths: ['/a/{*}', /a*b, c], ports: [http], methods: ['']}
",
"a.yaml:5:3: error[IST0106]: AuthorizationPolicy default/a: targetRefs: is not supported yet; remove it and select workloads by `selector.matchLabels`
a.yaml:7:12: error[IST0106]: AuthorizationPolicy default/a: rules[0].from[0]: is empty, which would match every client; remove `from`, or give a source
a.yaml:7:26: error[IST0106]: AuthorizationPolicy default/a: rules[0].from[1]: is empty, which would match every client; remove `from`, or give a source
a.yaml:8:10: error[IST0106]: AuthorizationPolicy default/a: rules[0].to[0]: is empty, which would match every request; remove `to`, or give an operation
a.yaml:9:5: error[IST0106]: AuthorizationPolicy default/a: rules[0].when: is not supported yet; remove it and use from and to
a.yaml:11:29: error[IST0106]: AuthorizationPolicy default/a: rules[1].from[0].source.principals[0]: begins with `spiffe://`; write the identity without it, such as cluster.local/ns/default/sa/web
a.yaml:11:43: error[IST0106]: AuthorizationPolicy default/a: rules[1].from[0].source.principals[1]: is empty; give a value, or `*` for any
a.yaml:11:48: error[IST0106]: AuthorizationPolicy default/a: rules[1].from[0].source.requestPrincipals: is not supported yet; remove it and use principals
a.yaml:11:85: error[IST0106]: AuthorizationPolicy default/a: rules[1].from[0].source.ipBlocks[0]: `x` is not an address or range; write 10.1.2.3 or 10.0.0.0/8
a.yaml:11:89: error[IST0106]: AuthorizationPolicy default/a: rules[1].from[0].source.remoteIpBlocks: is not supported yet; remove it and use ipBlocks
a.yaml:11:116: error[IST0106]: AuthorizationPolicy default/a: rules[1].from[0].source.serviceAccounts: is not supported yet; remove it and use principals
a.yaml:11:138: error[IST0106]: AuthorizationPolicy default/a: rules[1].from[0].source.trustDomains: is not supported yet; remove it and use principals
a.yaml:13:27: error[IST0106]: AuthorizationPolicy default/a: rules[1].to[0].operation.paths[0]: `/a/{*}` is a URI template, which is not supported yet; use a prefix such as /a/*
a.yaml:13:37: warning[IST0106]: AuthorizationPolicy default/a: rules[1].to[0].operation.paths[1]: `/a*b`: only one `*`, at the start or the end, is a wildcard; the other is taken as it stands
a.yaml:13:43: warning[IST0106]: AuthorizationPolicy default/a: rules[1].to[0].operation.paths[2]: `c` matches no path, because paths begin with `/`
a.yaml:13:55: error[IST0106]: AuthorizationPolicy default/a: rules[1].to[0].operation.ports[0]: `http` is not a port; ports are 1 to 65535
a.yaml:13:72: error[IST0106]: AuthorizationPolicy default/a: rules[1].to[0].operation.methods[0]: is empty; give a value, or `*` for any
",
    );
    check(
"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: a
  annotations:
    istio.io/dry-run: 'true'
spec: {}
",
"a.yaml:6:5: error[IST0106]: AuthorizationPolicy default/a: metadata.annotations[istio.io/dry-run]: dry runs are not supported yet, and without one the policy would be enforced; remove the annotation or the policy
",
    );
    check(
"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: a}
spec:
  jwtRules: []
",
"a.yaml:1:1: error[IST0106]: RequestAuthentication default/a: RequestAuthentication is not supported yet; remove it: tokens are not verified, so a policy that trusts them would be unsafe; require mesh identities by AuthorizationPolicy `principals`
",
    );
    check(
"apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: a}
spec:
  tracing: [{}]
  metrics: [{}]
  accessLogging:
  - providers: [{name: otel}]
    match: {mode: BOTH}
    filter: {expression: a}
",
"a.yaml:5:3: error[IST0106]: Telemetry default/a: tracing: is not supported yet; remove it
a.yaml:6:3: error[IST0106]: Telemetry default/a: metrics: is not supported yet; remove it; Istio's standard metrics are always on, with all their labels
a.yaml:8:18: error[IST0106]: Telemetry default/a: accessLogging[0].providers[0].name: `otel` is not supported yet; use `envoy`, which writes to standard output
a.yaml:9:13: error[IST0106]: Telemetry default/a: accessLogging[0].match.mode: `BOTH` is not a side; use CLIENT, SERVER or CLIENT_AND_SERVER
a.yaml:10:5: error[IST0106]: Telemetry default/a: accessLogging[0].filter: is not supported yet; remove it
",
    );
}

#[test]
fn objects_of_kubernetes_and_mesh_config() {
    check(
        "apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: x, ports: [{port: 80}, {port: 80, name: a}, {port: 99999, name: a}]}
",
        "a.yaml:4:8: error[IST0106]: Service default/a: spec.clusterIP: `x` is not an IP address
a.yaml:4:30: error[IST0106]: Service default/a: spec.ports[0].name: is missing; with several ports each needs a name
a.yaml:4:43: error[IST0106]: Service default/a: spec.ports[1].port: 80 is given twice; ports have numbers of their own
a.yaml:4:64: error[IST0106]: Service default/a: spec.ports[2].port: 99999 is not a port; ports are 1 to 65535
a.yaml:4:77: error[IST0106]: Service default/a: spec.ports[2].name: `a` is given twice; ports have names of their own
",
    );
    check(
"apiVersion: v1
kind: Service
metadata: {name: a}
spec: {type: ExternalName, externalName: 'a b'}
",
"a.yaml:4:28: error[IST0106]: Service default/a: spec.externalName: `a b` is not a host; write a DNS name such as reviews.default.svc.cluster.local
",
    );
    check(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a}
addressType: IPv4
endpoints: [{addresses: [x]}, {addresses: []}]
ports: [{port: 0}]
",
        "a.yaml:5:26: error[IST0106]: EndpointSlice default/a: endpoints[0].addresses[0]: `x` is not an IP address
a.yaml:5:32: error[IST0106]: EndpointSlice default/a: endpoints[1].addresses: is empty; give an address
a.yaml:6:10: error[IST0106]: EndpointSlice default/a: ports[0].port: 0 is not a port; ports are 1 to 65535
",
    );
    check(
"apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  meshNetworks: '{networks: {a: {}}}'
  mesh: |
    accessLogFile: /dev/stdout
    enableTracing: false
    enablePrometheusMerge: false
    trustDomian: x
    defaultConfig:
      concurrency: 2
    extensionProviders:
    - name: file
      envoyFileAccessLog: {path: /dev/stderr, logFormat: {labels: {a: {}}}, format: b}
    - name: otel
    localityLbSetting: {distribute: [], failover: [{from: a, to: b}]}
    defaultProviders: {accessLogging: [file], metrics: [prometheus]}
",
"a.yaml:5:3: warning[IST0106]: ConfigMap istio-system/istio: data.meshNetworks: has no effect yet: the mesh has one network; remove it
a.yaml:8:5: warning[IST0106]: ConfigMap istio-system/istio: data.mesh.enableTracing: has no effect yet; remove it
a.yaml:9:5: warning[IST0106]: ConfigMap istio-system/istio: data.mesh.enablePrometheusMerge: false has no effect yet: the application's metrics are always merged; remove it
a.yaml:10:5: warning[IST0106]: ConfigMap istio-system/istio: data.mesh.trustDomian: is not a field of MeshConfig, so it has no effect; remove it or correct its name
a.yaml:12:7: warning[IST0106]: ConfigMap istio-system/istio: data.mesh.defaultConfig.concurrency: has no effect: proxies are started with their own settings; set it there
a.yaml:15:68: error[IST0106]: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyFileAccessLog.logFormat.labels.a: is not a text; write one, with what it is to hold as `%NAME%`
a.yaml:15:77: warning[IST0106]: ConfigMap istio-system/istio: data.mesh.extensionProviders[0].envoyFileAccessLog.format: has no effect yet; remove it
a.yaml:16:7: warning[IST0106]: ConfigMap istio-system/istio: data.mesh.extensionProviders[1]: has no effect yet; only envoyFileAccessLog is read, so remove it
a.yaml:17:25: warning[IST0106]: ConfigMap istio-system/istio: data.mesh.localityLbSetting.distribute: has no effect yet; use failover, or remove it
a.yaml:18:47: warning[IST0106]: ConfigMap istio-system/istio: data.mesh.defaultProviders.metrics: has no effect yet; remove it
",
    );
    check(
"apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    outboundTrafficPolicy:
      mode: NO
",
"a.yaml:7:7: error[IST0106]: ConfigMap istio-system/istio: data.mesh.outboundTrafficPolicy.mode: unknown variant `NO`, expected one of `REGISTRY_ONLY`, `ALLOW_ANY`, `ALLOW_ANY_DYNAMIC_DNS`
",
    );
    check(
"apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    connectTimeout: 0s
    trustDomain: a b
    defaultHttpRetryPolicy: {attempts: 1, perTryTimeout: 1s}
    outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}
",
"a.yaml:6:5: error[IST0106]: ConfigMap istio-system/istio: data.mesh.connectTimeout: 0s is too short; the least is 1ms
a.yaml:7:5: error[IST0106]: ConfigMap istio-system/istio: data.mesh.trustDomain: `a b` is not a trust domain; write a DNS name
a.yaml:8:43: error[IST0106]: ConfigMap istio-system/istio: data.mesh.defaultHttpRetryPolicy.perTryTimeout: cannot be set for the whole mesh; set it in VirtualServices
a.yaml:9:29: error[IST0106]: ConfigMap istio-system/istio: data.mesh.outboundTrafficPolicy.mode: ALLOW_ANY_DYNAMIC_DNS is not supported yet; use ALLOW_ANY
",
    );
    check(
"apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'a: ['}
",
"a.yaml:4:8: error[IST0106]: ConfigMap istio-system/istio: data.mesh: is not YAML: did not find expected node content, while parsing a flow node
",
    );
}

/// Kinds that are refused as a whole, and what the message names instead.
#[test]
fn kinds_that_are_not_supported_name_a_substitute() {
    for (api_version, kind, substitute) in [
        ("networking.istio.io/v1alpha3", "EnvoyFilter", "DestinationRule"),
        ("networking.istio.io/v1beta1", "ProxyConfig", "--concurrency"),
        ("security.istio.io/v1", "RequestAuthentication", "AuthorizationPolicy"),
        ("extensions.istio.io/v1alpha1", "WasmPlugin", "application"),
        ("extensions.istio.io/v1alpha1", "TrafficExtension", "application"),
    ] {
        let found = findings(&format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n"));
        assert!(found.contains(&format!("{kind} is not supported yet")) && found.contains(substitute), "{found}");
    }
}

/// What users write every day, with every field that is honoured.
#[test]
fn what_is_supported_has_no_findings() {
    for (kind, spec) in [
        (
            "networking.istio.io/v1 VirtualService",
            "{hosts: [reviews, '*.example.com'], gateways: [mesh, ns/edge, edge], exportTo: ['.', prod], http: [
               {name: a, match: [{name: m, uri: {prefix: /a}, ignoreUriCase: true, scheme: {exact: https}, method: {regex: 'GET|PUT'}, authority: {exact: b},
                 headers: {x: {}, y: {exact: ''}, z: {prefix: p}}, withoutHeaders: {w: {regex: '.*'}}, queryParams: {q: {exact: ''}}, port: 80,
                 sourceLabels: {app: web}, sourceNamespace: prod, gateways: [mesh]}],
                rewrite: {uriRegexRewrite: {match: '^/a/(.*)$', rewrite: '/\\1'}, authority: b}, timeout: 0s,
                retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,reset,503', backoff: 10ms, retryIgnorePreviousHosts: false, retryRemoteLocalities: false},
                headers: {request: {set: {':authority': c, host: d, x: '%DOWNSTREAM_REMOTE_ADDRESS%'}, add: {y: z}, remove: [w]}, response: {remove: [server]}},
                route: [{destination: {host: reviews, subset: v1, port: {number: 80}}, weight: 0, headers: {response: {set: {a: b}}}}, {destination: {host: b}, weight: 3}]},
               {match: [{uri: {exact: /r}}], redirect: {uri: /, authority: x.com, derivePort: FROM_REQUEST_PORT, scheme: https, redirectCode: 308}},
               {match: [{uri: {exact: /d}}], directResponse: {status: 503, body: {string: no}}, headers: {response: {add: {a: b}}}},
               {match: [{uri: {prefix: /e}}], delegate: {name: x, namespace: y}, timeout: 1s},
               {redirect: {prefixRewrite: /b}}],
              tls: [{match: [{sniHosts: [a.example.com], port: 443, destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: a.com}}]}],
              tcp: [{match: [{port: 3306, sourceNamespace: prod}], route: [{destination: {host: db}, weight: 1}, {destination: {host: db2}, weight: 1}]}]}",
        ),
        (
            "networking.istio.io/v1beta1 DestinationRule",
            "{host: '*.example.com', exportTo: [.], workloadSelector: {matchLabels: {app: a}}, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH},
               connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}, maxConnectionDuration: 1h, idleTimeout: 0s},
                 http: {http1MaxPendingRequests: 1, http2MaxRequests: 1, maxRequestsPerConnection: 1, maxRetries: 1, idleTimeout: 1s, h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 1, http2KeepAlive: {interval: 10s, timeout: 1s}}},
               outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 5, interval: 1s,
                 baseEjectionTime: 1s, maxEjectionPercent: 100, minHealthPercent: 0, outlierDetectionHttpErrorCodes: [429, 503]},
               tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /a, subjectAltNames: [x], sni: y}, retryBudget: {percent: {value: 20}, minRetryConcurrency: 3, budgetInterval: 10s},
               portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, insecureSkipVerify: true}}]},
             subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, tls: {mode: ISTIO_MUTUAL}}}, {name: all}]}",
        ),
        (
            "networking.istio.io/v1 Gateway",
            "{selector: {istio: ingressgateway}, servers: [
               {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*'], tls: {httpsRedirect: true}, name: a, bind: 127.0.0.1},
               {port: {number: 443, name: https, protocol: HTTPS}, hosts: [./a.com, ns/*.b.com, '*/c.com'], tls: {mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]}},
               {port: {number: 1, name: a, protocol: https}, hosts: [a], tls: {mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /a, subjectAltNames: [x]}},
               {port: {number: 2, name: b, protocol: HTTPS}, hosts: [a], tls: {mode: OPTIONAL_MUTUAL, credentialNames: [c, d]}},
               {port: {number: 3, name: c, protocol: TLS}, hosts: [a], tls: {mode: PASSTHROUGH}},
               {port: {number: 4, name: d, protocol: TLS}, hosts: [a], tls: {mode: ISTIO_MUTUAL}},
               {port: {number: 5, name: e, protocol: TCP}, hosts: ['*']}, {port: {number: 6, name: f, protocol: GRPC}, hosts: ['*']}, {port: {number: 7, name: g, protocol: HTTP2}, hosts: ['*']}]}",
        ),
        (
            "networking.istio.io/v1 ServiceEntry",
            "{hosts: ['*.a.com', b.com], addresses: [240.0.0.1, 10.0.0.0/8], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 81, name: any}], location: MESH_INTERNAL,
              resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {http: 8081}, labels: {a: b}, locality: r/z/s, weight: 2, serviceAccount: c}], exportTo: ['~'], subjectAltNames: [x]}",
        ),
        ("networking.istio.io/v1 ServiceEntry", "{hosts: ['*.a.com'], ports: [{number: 443, name: tls, protocol: TLS}]}"),
        ("networking.istio.io/v1 ServiceEntry", "{hosts: [a.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS_ROUND_ROBIN}"),
        ("networking.istio.io/v1 ServiceEntry", "{hosts: [a], ports: [{number: 1, name: tcp}], resolution: STATIC, workloadSelector: {labels: {app: a}}}"),
        ("networking.istio.io/v1 ServiceEntry", "{hosts: [a], ports: [{number: 1, name: tcp}], resolution: STATIC, endpoints: [{address: 'unix:///run/a.sock'}]}"),
        ("networking.istio.io/v1 WorkloadEntry", "{address: vm.example.com, ports: {http: 80}, labels: {app: a}}"),
        (
            "networking.istio.io/v1 Sidecar",
            "{workloadSelector: {labels: {app: a}}, ingress: [{port: {number: 80, protocol: HTTP, name: a}, defaultEndpoint: '127.0.0.1:8080', captureMode: NONE, bind: 0.0.0.0},
                {port: {number: 81, protocol: TCP, name: b}, defaultEndpoint: 'unix:///run/a.sock', connectionPool: {tcp: {maxConnections: 1}}}],
              inboundConnectionPool: {http: {http2MaxRequests: 1}},
              egress: [{port: {number: 15080, protocol: HTTP_PROXY, name: p}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*']}, {hosts: [./*, 'istio-system/*', '*/a.com', '~/*', '~prod/*', '~./b.com']}],
              outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
        ),
        ("security.istio.io/v1 PeerAuthentication", "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, '8081': {mode: UNSET}}}"),
        ("security.istio.io/v1beta1 AuthorizationPolicy", "{}"),
        (
            "security.istio.io/v1 AuthorizationPolicy",
            "{selector: {matchLabels: {app: a}}, action: DENY, rules: [{}, {from: [{source: {principals: ['*'], notPrincipals: [cluster.local/ns/a/sa/b], namespaces: [a*], notNamespaces: ['*b'], ipBlocks: [10.0.0.1], notIpBlocks: ['fd00::/8']}}],
              to: [{operation: {hosts: ['*.a.com'], notHosts: [b], ports: ['80'], notPorts: ['81'], methods: [GET], notMethods: [PUT], paths: [/a, '/b/*', '*.js', '*'], notPaths: [/c]}}]}]}",
        ),
        ("telemetry.istio.io/v1 Telemetry", "{selector: {matchLabels: {app: a}}, accessLogging: [{providers: [{name: envoy}], match: {mode: SERVER}}, {disabled: true}]}"),
    ] {
        let (api_version, kind) = kind.split_once(' ').unwrap();
        check(&format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"), "");
    }
}

#[test]
fn mesh_config_is_read_and_judged() {
    let (config, findings) = mesh_config(
        "trustDomain: prod\naccessLogFile: /dev/stdout\nenableTracing: true\nenablePrometheusMerge: true\ndefaultConfig: {}\npathNormalization: {normalization: MERGE_SLASHES}\ndefaultHttpRetryPolicy: {attempts: 3, retryOn: 5xx}\n",
        "istio-system",
    )
    .unwrap();
    assert_eq!((config.trust_domain.as_str(), findings), ("prod", Vec::new()));
    assert_eq!(mesh_config("", "istio-system").unwrap().0, mesh_proto::crd::MeshConfig::default());
    for (text, expected) in [("", "mesh"), ("rootNamespace: other", "other")] {
        assert_eq!(mesh_config(text, "mesh").unwrap().0.root_namespace, expected);
    }
    let findings = mesh_config("proxyListenPort: many", "istio-system").unwrap_err();
    assert_eq!(findings[0].field.as_deref(), Some("proxyListenPort"));
}

#[test]
fn workload_groups() {
    let group = |spec: &str| {
        format!("apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {{name: a}}\nspec: {spec}\n")
    };
    check(
        &group(
            "{template: {ports: {http: 80}, serviceAccount: vm}, metadata: {labels: {app: a}, annotations: {b: c}}}",
        ),
        "",
    );
    for (spec, found) in [
        (
            "{}",
            "error[IST0106]: WorkloadGroup default/a: template: is missing; give the entries' ports, labels or serviceAccount",
        ),
        (
            "{template: {address: 10.0.0.1}}",
            "warning[IST0106]: WorkloadGroup default/a: template.address: has no effect: each workload has its own; remove it",
        ),
        (
            "{template: {ports: {http: 0}}}",
            "WorkloadGroup default/a: template.ports[http]: 0 is not a port; ports are 1 to 65535",
        ),
        ("{template: {}, probe: {}}", "probe: must have exactly one of httpGet, tcpSocket, exec and grpc"),
        ("{template: {}, probe: {httpGet: {port: 70000}}}", "probe.httpGet.port: 70000 is not a port"),
        ("{template: {}, probe: {exec: {command: [a]}}}", "probe: has no effect yet: the proxy does not probe"),
    ] {
        let all = findings(&group(spec));
        assert!(all.contains(found), "{spec}: {all}");
    }
}
