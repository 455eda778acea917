"""What the tests share: real processes, clients over the `websockets` library, plain HTTP, hand-made tokens.

Nothing in here imports code of this project. It was written from the protocol's text alone, so that a mistake shared by
our server and our own clients still fails a test.
"""
