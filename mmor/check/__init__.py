"""`mmor check`: will this machine do, and does every path that it can take give the numbers it should?"""
