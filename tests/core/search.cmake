espalier_test(test_search SOURCES core/test_search.cpp LIBS espalier::search)
target_link_libraries(test_search PRIVATE espalier::allocate)
espalier_test(test_verified_exchange SOURCES core/test_verified_exchange.cpp LIBS espalier::search espalier::allocate)
