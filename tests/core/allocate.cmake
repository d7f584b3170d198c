espalier_test(test_allocate SOURCES core/test_allocate.cpp LIBS espalier::allocate)
