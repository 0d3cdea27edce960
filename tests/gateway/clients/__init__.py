"""Programs that use clients of others, in an environment of their own, and print what they saw.

Those clients want versions of Protocol Buffers and others that the suite does not have.
"""
