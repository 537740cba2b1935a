"""A gRPC client with gRPC's own xDS: one channel, commands on standard input, an answer a line.

TARGET is the first argument. `unary N` and `stream N` call N times; the answer is JSON: how often each server answered, and the errors.
"""

import json
import sys

import grpc
import grpc.experimental


def main():
    target, secure = sys.argv[1], sys.argv[2] == "secure"
    fallback = grpc.experimental.insecure_channel_credentials()
    credentials = grpc.xds_channel_credentials(fallback) if secure else fallback
    channel = grpc.secure_channel(target, credentials)
    unary = channel.unary_unary("/witness.Echo/Unary")
    stream = channel.unary_stream("/witness.Echo/Stream")
    for line in sys.stdin:
        kind, count = line.split()
        answers, errors = {}, {}
        for _ in range(int(count)):
            try:
                found = [unary(b"\x01", timeout=5)] if kind == "unary" else list(stream(b"\x05", timeout=5))
                for one in found:
                    answers[one.decode()] = answers.get(one.decode(), 0) + 1
            except grpc.RpcError as error:
                text = f"{error.code().name}: {error.details()}"
                errors[text] = errors.get(text, 0) + 1
        print(json.dumps({"answers": answers, "errors": errors}), flush=True)


main()
