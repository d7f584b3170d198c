espalier_test(test_search SOURCES core/test_search.cpp LIBS espalier::search)
target_link_libraries(test_search PRIVATE espalier::allocate)
espalier_test(test_verified_exchange SOURCES core/test_verified_exchange.cpp LIBS espalier::search espalier::allocate)

# Figures, not a test.
find_package(benchmark QUIET)
if(benchmark_FOUND)
    add_executable(search_bench EXCLUDE_FROM_ALL bench/search_bench.cpp)
    target_link_libraries(search_bench PRIVATE espalier::search benchmark::benchmark espalier::options)
    target_include_directories(search_bench PRIVATE ${PROJECT_SOURCE_DIR}/tests)
endif()
