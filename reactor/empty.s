// There is no assembly here: beside a file of it the compiler takes functions without a body, as gnet.go has.
